// How the core reports failure: no exceptions, no abort; a sentence for the user.
#pragma once

#include <string>
#include <utility>

namespace ghost {

class [[nodiscard]] Status {
 public:
  Status() = default;
  static Status error(std::string message) {
    Status status;
    status.message_ = message.empty() ? "unknown error" : std::move(message);
    return status;
  }
  bool ok() const { return message_.empty(); }
  const std::string& message() const { return message_; }

 private:
  std::string message_;
};

// A value, or the reason why there is none. `value` is meaningful only if ok().
template <typename T>
struct [[nodiscard]] Result {
  T value{};
  Status status;

  Result() = default;
  Result(T v) : value(std::move(v)) {}             // NOLINT: implicit, so that `return value;` works
  Result(Status s) : status(std::move(s)) {}       // NOLINT: implicit, so that `return Status::error(..)` works
  bool ok() const { return status.ok(); }
};

}  // namespace ghost
