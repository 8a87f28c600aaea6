// Result and Error: how every room reports what went wrong.
//
// base may be included by every room and includes none. An Error carries a kind (few, stable,
// mapped to exit codes), a message for the person who has to act, and the chain of what was being
// done. A function logs or returns its error, never both.
#pragma once

#include <fmt/format.h>
#include <tl/expected.hpp>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pawl {

enum class ErrorKind {
    kInvalidArgument,  // input that can't be right: configuration, command line, a message
    kNotFound,
    kAlreadyExists,
    kCorrupt,      // a digest, a CRC or a format does not hold
    kUnsupported,  // a newer format, a feature this machine lacks
    kNoSpace,      // ENOSPC, EDQUOT
    kIo,
    kUnavailable,  // permission, descriptors or memory are missing: says nothing of what is there
    kBusy,         // held by somebody else; trying later may help
    kTimeout,
    kCancelled,
    kInternal,
};

[[nodiscard]] std::string_view to_string(ErrorKind kind);

class [[nodiscard]] Error {
public:
    Error(ErrorKind kind, std::string message) : kind_(kind), message_(std::move(message)) {}

    // Adds what was being done when the error came up: the innermost is added first. Reads as the
    // object of "cannot": "commit checkpoint 43 of job 'lm'".
    template <class... Args>
    Error while_doing(fmt::format_string<Args...> format, Args&&... args) && {
        doing_.push_back(fmt::format(format, std::forward<Args>(args)...));
        return std::move(*this);
    }

    // What happens now, or what the person should do: a whole sentence.
    template <class... Args>
    Error consequence(fmt::format_string<Args...> format, Args&&... args) && {
        consequence_ = fmt::format(format, std::forward<Args>(args)...);
        return std::move(*this);
    }

    [[nodiscard]] ErrorKind kind() const { return kind_; }
    [[nodiscard]] const std::string& message() const { return message_; }

    // "cannot commit checkpoint 43: write 'rank-00000.pt': No space left on device. Kept in
    // memory."
    [[nodiscard]] std::string text() const;

private:
    ErrorKind kind_;
    std::string message_;
    std::vector<std::string> doing_;
    std::string consequence_;
};

// tl::expected with [[nodiscard]] on the type, and made from an Error without further words.
template <class T>
class [[nodiscard]] Result : public tl::expected<T, Error> {
public:
    using tl::expected<T, Error>::expected;
    // The two conversions every `return` needs.
    Result(Error error) : tl::expected<T, Error>(tl::unexpect, std::move(error)) {}  // NOLINT
    Result(T value) : tl::expected<T, Error>(std::move(value)) {}                    // NOLINT
};

template <>
class [[nodiscard]] Result<void> : public tl::expected<void, Error> {
public:
    Result() = default;
    Result(Error error) : tl::expected<void, Error>(tl::unexpect, std::move(error)) {}  // NOLINT
};

template <class... Args>
Error make_error(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
    return {kind, fmt::format(format, std::forward<Args>(args)...)};
}

// From a system call that has just failed: reads `errno`, and appends its text to the message.
[[nodiscard]] Error error_from_code(int code, std::string_view what);

template <class... Args>
Error error_from_errno(fmt::format_string<Args...> format, Args&&... args) {
    const int code = errno;
    return error_from_code(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace pawl

// The one macro for flow: hands an error on to the caller.
#define RETURN_IF_ERROR(expression)                                          \
    do {                                                                     \
        if (auto result_of_expression = (expression); !result_of_expression) \
            return std::move(result_of_expression).error();                  \
    } while (false)
