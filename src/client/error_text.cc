// See error_text.h. libpawl is linked with `-z nodelete`, so the key's destructor stays where it
// is.
#include "client/error_text.h"

#include <pthread.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>

namespace pawl::client::error_text {
namespace {

constexpr std::size_t kBytesMax = 2048;
constexpr const char* kNoMemory = "there is no memory for the text of this error";
// Stands for kNoMemory in a thread's place, where free(3) must not see it.
char g_no_memory = 0;

void release(void* text) {
    if (text != &g_no_memory) std::free(text);
}

std::optional<pthread_key_t> make_key() {
    pthread_key_t key{};
    if (::pthread_key_create(&key, &release) != 0) return std::nullopt;
    return key;
}

const std::optional<pthread_key_t>& key() {
    static const std::optional<pthread_key_t> made = make_key();
    return made;
}

// Appends as much as fits.
char* append(char* at, const char* end, std::string_view text) {
    const std::size_t count = std::min(text.size(), static_cast<std::size_t>(end - at));
    return std::copy_n(text.data(), count, at);
}

}  // namespace

void clear() noexcept {
    if (!key()) return;
    void* const text = ::pthread_getspecific(*key());
    if (text == nullptr) return;
    if (text == &g_no_memory) {
        ::pthread_setspecific(*key(), nullptr);
    } else {
        *static_cast<char*>(text) = '\0';
    }
}

void set(std::string_view call, std::string_view text) noexcept {
    if (!key()) return;
    void* place = ::pthread_getspecific(*key());
    if (place == nullptr || place == &g_no_memory) {
        place = std::malloc(kBytesMax);
        const void* const kept = place != nullptr ? place : &g_no_memory;
        if (::pthread_setspecific(*key(), kept) != 0) {
            std::free(place);
            return;
        }
        if (place == nullptr) return;
    }
    char* const begin = static_cast<char*>(place);
    const char* const end = begin + kBytesMax - 1;
    char* at = append(begin, end, call);
    at = append(at, end, ": ");
    at = append(at, end, text);
    *at = '\0';
}

const char* get() noexcept {
    const void* const text = key() ? ::pthread_getspecific(*key()) : nullptr;
    if (text == &g_no_memory) return kNoMemory;
    return text == nullptr ? "" : static_cast<const char*>(text);
}

}  // namespace pawl::client::error_text
