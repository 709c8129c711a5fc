// Barriers, invitations, naps and the end of a team. Exit code 1, and the line, where something is wrong.
#include "team.h"

#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

static bool failed = false;
#define CHECK(condition) \
  if (!(condition)) failed = true, std::printf("line %d: " #condition "\n", __LINE__)

struct Sync {
  std::vector<long> words;
  explicit Sync(long threads) : words(MEMBERS + MEMBER_WORDS * (threads > 1 ? threads - 1 : 0)) {}
  operator long*() { return words.data(); }
};

// Each round every thread writes its cell, then reads all: sums are wrong if a barrier lets one through early.
static void barriers(long threads) {
  constexpr long ROUNDS = 200;
  Sync sync(threads);
  std::vector<std::atomic<long>> cells(threads);
  std::atomic<long> wrong = 0, arrivals = 0;
  std::vector<std::thread> team;
  for (long t = 0; t < threads; t++)
    team.emplace_back([&, t] {
      long passed = 0;
      for (long i = 0; i < ROUNDS; i++) {
        cells[t] = i;
        barrier(sync, passed, threads);
        long total = 0;
        for (auto& cell : cells) total += cell;
        wrong += total != i * threads;
        barrier(sync, passed, threads);
      }
      arrivals += passed;
    });
  for (auto& thread : team) thread.join();
  CHECK(wrong == 0);
  CHECK(arrivals == (threads > 1 ? 2 * ROUNDS * threads * threads : 0));  // a single thread has nothing to wait for
}

static void invitations() {
  Sync sync(3);
  long everyone[] = {0, 1, 2}, one[] = {0, -1, 1};
  CHECK(next_pass(sync, 1, 0, 10) == 0);           // no invitation: asleep
  CHECK(begin_pass(sync, 1, everyone, 3) == 1);    // member 2 has never slept
  CHECK(next_pass(sync, 1, 0, 10) == 1 && next_pass(sync, 2, 0, 10) == 1);
  CHECK(begin_pass(sync, 2, one, 3) == 0);         // member 1 is present, and not invited
  CHECK(next_pass(sync, 1, 1, 10) == 0);
  CHECK(next_pass(sync, 2, 1, 10) == 2);
  CHECK(member_of(sync, 2)[RANK] == 1);
  CHECK(begin_pass(sync, 3, everyone, 3) == 1);
  CHECK(next_pass(sync, 1, 1, 10) == 3);           // the pass without it does not count
  end_passes(sync, 4, 3);
  CHECK(next_pass(sync, 1, 3, 10) == -1 && next_pass(sync, 2, 2, 10) == -1);
}

static void naps() {
  Sync sync(2);
  member_of(sync, 1)[NAP] = 1;
  CHECK(next_pass(sync, 1, 0, 10) == 0);
  CHECK(member_of(sync, 1)[NAP] == 0 && member_of(sync, 1)[STATE] == ASLEEP);
}

static void ending() {
  Sync sync(2);
  long passed = 0;
  std::atomic<bool> left = false;
  std::thread waiting([&] { barrier(sync, passed, 2), left = true; });
  usleep(50000);
  CHECK(!left);
  end_passes(sync, 1, 2);
  waiting.join();
  CHECK(passed == 2 && sync[WAITED] > 0);
}

int main() {
  for (long threads : {1, 2, 3, 5}) barriers(threads);
  invitations();
  naps();
  ending();
  return failed;
}
