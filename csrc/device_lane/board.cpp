#include "device_lane/board.hpp"

#include <sys/random.h>
#include <unistd.h>

#include <new>
#include <stdexcept>
#include <string>

#include "core/hash.hpp"

namespace papilio::device {

namespace {
constexpr std::uint64_t kMagic = 0x31445242504150;  // "PAPBRD1"
}  // namespace

std::uint64_t partWord(Seq seq, std::uint64_t members) {
  return hashCombine(hashCombine(kMagic, seq.value), members) | 1;  // not the 0 of a fresh page
}

OwnBoard::OwnBoard() {
  auto* page = new (memory_.data()) BoardPage;  // fresh pages are zero
  if (getrandom(page->nonce.data(), sizeof(Nonce), 0) != sizeof(Nonce)) {
    throw std::runtime_error("getrandom failed");
  }
  page->magic = kMagic;
}

void OwnBoard::describe(Reference& out) const {
  out.pid = static_cast<std::uint32_t>(getpid());
  out.fd = memory_.fd();
  out.nonce = page().nonce;
}

// Before the memory is written: who finds the old number read all of it before.
void OwnBoard::endUses(std::uint64_t below) { page().valid_from = below; }

void OwnBoard::partDone(Seq seq, std::uint64_t members) {
  page().done[seq.value % kRoundsOnBoard] = partWord(seq, members);
}

void OwnBoard::hasRead(Seq seq) { page().read[seq.value % kRoundsOnBoard] = seq.value; }

PeerBoard::PeerBoard(const Reference& owner) : view_(owner.pid, owner.fd, sizeof(BoardPage)) {
  if (page().magic != kMagic || page().nonce != owner.nonce) {
    throw std::runtime_error("descriptor " + std::to_string(owner.fd) + " of process " +
                             std::to_string(owner.pid) + " is not the board that was announced");
  }
}

bool PeerBoard::valid(std::uint64_t serial) const { return page().valid_from <= serial; }

bool PeerBoard::partDone(Seq seq, std::uint64_t members) const {
  return page().done[seq.value % kRoundsOnBoard] == partWord(seq, members);
}

bool PeerBoard::hasRead(Seq seq) const {
  return page().read[seq.value % kRoundsOnBoard] >= seq.value;
}

}  // namespace papilio::device
