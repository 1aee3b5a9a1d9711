#include "process_group/rendezvous.hpp"

#include <c10/util/Exception.h>

#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>

#include "core/hash.hpp"

namespace papilio::pg {

namespace {

// `turn`: how often the rank has come to this store to meet. A group that is created again in the
// same processes must not find the addresses of the one before.
std::string placeOf(std::int64_t turn) { return "papilio/" + std::to_string(turn); }

std::string keyOf(std::int64_t turn, int rank) {
  return placeOf(turn) + "/rank/" + std::to_string(rank);
}

struct Published {
  std::string version;
  int size = 0;
  std::uint64_t number = 0;
  std::string hierarchy;
  std::string record;
};

std::string encodePublished(const Published& value) {
  return value.version + "\n" + std::to_string(value.size) + "\n" + std::to_string(value.number) +
         "\n" + value.hierarchy + "\n" + value.record;
}

Published parsePublished(const std::string& text, int rank) {
  std::istringstream in(text);
  Published out;
  std::string size, number;
  std::getline(in, out.version);
  std::getline(in, size);
  std::getline(in, number);
  std::getline(in, out.hierarchy);
  std::getline(in, out.record);
  char* end_of_size = nullptr;
  char* end_of_number = nullptr;
  out.size = static_cast<int>(std::strtol(size.c_str(), &end_of_size, 10));
  out.number = std::strtoull(number.c_str(), &end_of_number, 10);
  TORCH_CHECK_WITH(DistBackendError,
                   !out.record.empty() && *end_of_size == '\0' && *end_of_number == '\0',
                   "papilio: the store entry of rank ", rank,
                   " is damaged; is another program using the same store?");
  return out;
}

void waitForAll(c10d::Store& store, std::int64_t turn, int size, std::chrono::milliseconds limit) {
  std::vector<std::string> keys;
  for (int r = 0; r < size; ++r) keys.push_back(keyOf(turn, r));
  try {
    store.wait(keys, limit);
  } catch (const std::exception& error) {
    std::string missing;
    for (int r = 0; r < size; ++r) {
      bool there = false;
      try {
        there = store.check({keyOf(turn, r)});
      } catch (const std::exception&) {
        C10_THROW_ERROR(
            DistBackendError,
            std::string("papilio: the store that the group meets at does not answer: ") +
                error.what());
      }
      if (!there) missing += (missing.empty() ? "" : ", ") + std::to_string(r);
    }
    C10_THROW_ERROR(DistBackendError,
                    "papilio: rank " + missing + " did not show up at the store within " +
                        std::to_string(limit.count() / 1000) +
                        " s; was it started, with the same world size and MASTER_ADDR/PORT?");
  }
}

struct Turn {
  std::int64_t number = 0;
  bool met = false;  // the others have met at it, with another process as this rank
};

// Takes this rank's turn. A rank that was restarted after everybody had met would wait for peers
// that do not wait for it; its predecessor's entry is told from one of an earlier group of this
// process by the group's number.
Turn takeTurn(c10d::Store& store, const std::string& turns, int rank, int size,
              const Published& mine, bool rejoin) {
  const std::int64_t turn = store.add(turns, 1);
  if (turn == 1 || !store.check({keyOf(turn - 1, rank)})) return {turn};
  const auto before = parsePublished(store.get_to_str(keyOf(turn - 1, rank)), rank);
  if (before.number != mine.number) return {turn};
  store.add(turns, -1);
  std::vector<std::string> keys;
  for (int r = 0; r < size; ++r) keys.push_back(keyOf(turn - 1, r));
  // Unless everybody was there, the new entry replaces the old one.
  if (!store.check(keys)) return {turn - 1};
  TORCH_CHECK_WITH(DistBackendError, rejoin, "papilio: rank ", rank,
                   " is in this group already, as another process. If that process has died and "
                   "this one is to take its place, start it with PAPILIO_REJOIN=1 and call "
                   "papilio.attach() (python -m papilio.run --restarts does the first); otherwise "
                   "two processes have the same RANK");
  return {turn - 1, true};
}

Meeting whoMet(c10d::Store& store, std::int64_t turn, int rank, int size, const Published& mine) {
  Meeting out;
  out.place = placeOf(turn);
  std::string identity;
  for (int r = 0; r < size; ++r) {
    const auto text = store.get_to_str(keyOf(turn, r));
    const auto theirs = parsePublished(text, r);
    TORCH_CHECK_WITH(DistBackendError, theirs.version == mine.version, "papilio: rank ", r,
                     " runs ", theirs.version, ", this rank ", rank, " runs ", mine.version,
                     "; install the same version everywhere");
    TORCH_CHECK_WITH(DistBackendError, theirs.size == size, "papilio: rank ", r,
                     " was started with world size ", theirs.size, ", this rank ", rank, " with ",
                     size, "; start all ranks with the same world size");
    TORCH_CHECK_WITH(DistBackendError, theirs.hierarchy == mine.hierarchy, "papilio: rank ", r,
                     " was started with hierarchy='", theirs.hierarchy, "', this rank ", rank,
                     " with '", mine.hierarchy,
                     "'; set PAPILIO_HIERARCHY to the same on all ranks");
    identity += text + "\n";
    out.records.push_back(theirs.record);
  }
  const auto hash = hashBytes(identity);
  out.id = GroupId{static_cast<std::uint32_t>(hash ^ (hash >> 32))};
  return out;
}

// The meeting failed: a second attempt is the same turn again.
void takeBack(c10d::Store& store, const std::string& turns) {
  try {
    store.add(turns, -1);
  } catch (const std::exception&) {
    // The store is gone; so is the count.
  }
}

std::string randomHex() {
  std::random_device device;
  std::string out;
  for (int i = 0; i < 8; ++i) {
    std::array<char, 9> text{};
    std::snprintf(text.data(), text.size(), "%08x", device());
    out += text.data();
  }
  return out;
}

}  // namespace

Meeting meet(c10d::Store& store, int rank, int size, const std::string& record,
             const std::string& hierarchy, std::uint64_t group_number,
             std::chrono::milliseconds limit, bool rejoin) {
  const Published mine{"papilio " PAPILIO_VERSION, size, group_number, hierarchy, record};
  const std::string turns = "papilio/turns/" + std::to_string(rank);
  const auto [turn, met] = takeTurn(store, turns, rank, size, mine, rejoin);
  if (met) {
    auto out = whoMet(store, turn, rank, size, mine);
    out.view = ViewNumber{0};
    return out;
  }
  store.set(keyOf(turn, rank), encodePublished(mine));
  try {
    waitForAll(store, turn, size, limit);
  } catch (...) {
    takeBack(store, turns);
    throw;
  }
  return whoMet(store, turn, rank, size, mine);
}

std::string jobSecret(c10d::Store& store) {
  if (const char* secret = std::getenv("PAPILIO_SECRET"); secret != nullptr && *secret != '\0') {
    return secret;
  }
  if (const char* path = std::getenv("PAPILIO_SECRET_FILE"); path != nullptr && *path != '\0') {
    std::ifstream file(path);
    std::string secret;
    std::getline(file, secret);
    TORCH_CHECK_WITH(ValueError, !secret.empty(), "PAPILIO_SECRET_FILE=", path,
                     ": the file is missing, empty or can not be read");
    return secret;
  }
  return store.compareSet("papilio/secret", std::string(), randomHex());
}

}  // namespace papilio::pg
