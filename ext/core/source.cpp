#include "source.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

namespace ghost {

Source::~Source() {
  if (file_ != nullptr) std::fclose(file_);
}

bool Source::fail(const std::string& why) {
  if (status_.ok()) status_ = Status::error("Cannot read " + path_ + ": " + why + ".");
  return false;
}

Status Source::open(const std::string& path) {
  path_ = path;
  file_ = std::fopen(path.c_str(), "rb");
  if (file_ == nullptr) {
    fail(std::strerror(errno));
    return status_;
  }
  std::setvbuf(file_, nullptr, _IONBF, 0);  // straight into the pieces
  const long size = std::fseek(file_, 0, SEEK_END) == 0 ? std::ftell(file_) : -1;
  if (size < 0 || std::fseek(file_, 0, SEEK_SET) != 0) {
    fail("it is not a regular file");
  } else if (!piece_.allocate(kPiece)) {
    fail("there is not enough memory");
  }
  size_ = static_cast<uint64_t>(size);
  return status_;
}

void Source::start(uint64_t offset, uint64_t size) {
  unread_ = offset;
  end_ = offset + size;
  given_ = filled_ = 0;
}

const uint8_t* Source::next(size_t n) {
  const size_t rest = filled_ - given_;
  if (n > rest && n - rest > end_ - unread_) {
    fail("it is shorter than expected");
    return nullptr;
  }
  if (file_ == nullptr) {
    unread_ += n;
    return status_.ok() && unread_ <= size_ ? data_ + (unread_ - n) : nullptr;
  }
  if (n > rest) {
    if (rest > 0) std::memmove(piece_.data(), piece_.data() + given_, rest);
    const size_t more = static_cast<size_t>(std::min<uint64_t>(end_ - unread_, kPiece - rest));
    if (!read(unread_, more, piece_.data() + rest)) return nullptr;
    unread_ += more;
    given_ = 0;
    filled_ = rest + more;
  }
  given_ += n;
  return piece_.data() + (given_ - n);
}

bool Source::read(uint64_t offset, size_t n, void* to) {
  if (!status_.ok()) return false;
  if (offset > size_ || n > size_ - offset) return fail("it is shorter than expected");
  if (file_ == nullptr) {
    if (n > 0) std::memcpy(to, data_ + offset, n);
    return true;
  }
  errno = 0;
  if (at_ != offset && std::fseek(file_, static_cast<long>(offset), SEEK_SET) != 0) return fail(std::strerror(errno));
  const size_t count = std::fread(to, 1, n, file_);
  at_ = offset + count;
  if (count == n) return true;
  return fail(std::ferror(file_) != 0 && errno != 0 ? std::strerror(errno) : "it became shorter while it was read");
}

}  // namespace ghost
