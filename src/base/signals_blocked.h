// Signals that wait: on the thread that says so, for the length of a scope, and for ever on threads
// that are started in it.
#pragma once

#include <signal.h>

#include <initializer_list>

namespace pawl {

class SignalsBlocked {
public:
    SignalsBlocked() {
        sigset_t all;
        ::sigfillset(&all);
        ::pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    // These, beside those that are blocked already.
    explicit SignalsBlocked(std::initializer_list<int> numbers) {
        sigset_t some;
        ::sigemptyset(&some);
        for (const int number : numbers)
            ::sigaddset(&some, number);
        ::pthread_sigmask(SIG_BLOCK, &some, &before_);
    }
    ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;

private:
    sigset_t before_;
};

}  // namespace pawl
