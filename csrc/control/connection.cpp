#include "control/connection.hpp"

#include <cstring>

namespace papilio::control {

Connection::Connection(Socket socket, engine::Wheel& wheel)
    : socket_(std::move(socket)), wheel_(wheel) {
  std::error_code ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket_.set_option(asio::socket_base::keep_alive(true), ignored);
  socket_.non_blocking(true, ignored);
}

void Connection::start(FrameFn on_frame, EndFn on_end) {
  handOver(std::move(on_frame), std::move(on_end));
  read();
}

void Connection::handOver(FrameFn on_frame, EndFn on_end) {
  on_frame_ = std::move(on_frame);
  on_end_ = std::move(on_end);
}

void Connection::read() {
  if (reading_ || held_ || !open_) return;
  reading_ = true;
  socket_.async_read_some(
      asio::buffer(chunk_),
      wheel_.guarding([self = shared_from_this()](std::error_code error, std::size_t size) {
        self->reading_ = false;
        if (!self->open_) return;
        if (error) {
          self->end(error, false);
          return;
        }
        self->input_.insert(self->input_.end(), self->chunk_.begin(), self->chunk_.begin() + size);
        self->consume();
        self->read();
      }));
}

void Connection::resume() {
  held_ = false;
  consume();
  read();
}

void Connection::consume() {
  if (consuming_) return;  // drain() out of a frame handler
  consuming_ = true;
  std::size_t at = 0;
  while (open_ && !held_ && input_.size() - at >= kPrefix) {
    std::uint32_t length;
    std::memcpy(&length, input_.data() + at, sizeof length);
    const auto kind = static_cast<std::uint8_t>(input_[at + 4]);
    if (length > max_frame_ || kind < 1 || kind > kKindLast) {
      end({}, true);
      break;
    }
    if (input_.size() - at < kPrefix + length) break;
    const std::span<const std::byte> body(input_.data() + at + kPrefix, length);
    at += kPrefix + length;
    const auto handler = on_frame_;  // it may hand the connection over
    if (handler) handler(static_cast<Kind>(kind), body);
  }
  input_.erase(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(at));
  consuming_ = false;
}

void Connection::drain() {
  while (open_) {
    std::error_code error;
    const std::size_t size = socket_.read_some(asio::buffer(chunk_), error);
    if (error || size == 0) return;
    input_.insert(input_.end(), chunk_.begin(), chunk_.begin() + static_cast<std::ptrdiff_t>(size));
    consume();
  }
}

bool Connection::send(Kind kind, std::span<const std::byte> body) {
  if (!open_ || queue_.size() + kPrefix + body.size() > kQueueLimit) return false;
  const auto length = static_cast<std::uint32_t>(body.size());
  const auto at = queue_.size();
  queue_.resize(at + kPrefix + body.size());
  std::memcpy(queue_.data() + at, &length, sizeof length);
  queue_[at + 4] = static_cast<std::byte>(kind);
  if (!body.empty()) std::memcpy(queue_.data() + at + kPrefix, body.data(), body.size());
  if (!writing_) write();
  return true;
}

void Connection::write() {
  if (queue_.empty()) return;
  writing_ = true;
  outgoing_.clear();
  outgoing_.swap(queue_);
  asio::async_write(
      socket_, asio::buffer(outgoing_),
      wheel_.guarding([self = shared_from_this()](std::error_code error, std::size_t) {
        self->writing_ = false;
        // A failed write is not the end yet: frames that came before may still be
        // unread; the read side reports.
        if (self->open_ && !error) self->write();
      }));
}

void Connection::close() {
  open_ = false;
  on_frame_ = nullptr;
  on_end_ = nullptr;
  std::error_code ignored;
  socket_.close(ignored);
}

void Connection::end(std::error_code error, bool broken_rules) {
  const auto handler = std::move(on_end_);
  close();
  if (handler) handler(error, broken_rules);
}

}  // namespace papilio::control
