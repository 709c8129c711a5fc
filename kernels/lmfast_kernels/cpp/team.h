// Barriers and pass control for a team of threads, by atomic operations, for passes of half a millisecond.
//
// State: an array of int64 words, zeroed, shared by all threads. Thread 0 leads: it invites members to a pass
// (inference/cpu/attendance.py says which) and works with them until the last barrier; the others need not have noticed. A
// waiting thread spins a few thousand times, then yields its core (barriers) or sleeps until woken (between passes). OpenMP
// takes 3 to 10 µs per parallel loop, 17 times in 4 layers; these barriers take 0.2 µs if the cores share a cache.
#pragma once
#include <sched.h>
#include <time.h>
#include <unistd.h>

// Offsets, two cache lines apart: barrier arrivals, whether the team has ended, nanoseconds that threads waited at barriers
// beyond SPINS. Then, for each member t, MEMBER_WORDS from MEMBERS + MEMBER_WORDS (t - 1): the newest pass it is invited to, its
// rank there, whether it shall nap (all written by thread 0); its state, on another pair of lines.
constexpr long ARRIVED = 0, ENDED = 16, WAITED = 32, MEMBERS = 48, MEMBER_WORDS = 32;
constexpr long INVITED = 0, RANK = 1, NAP = 2, STATE = 16;
constexpr long PRESENT = 0, NAPPING = 1, ASLEEP = 2;
constexpr long SPINS = 2000;  // at a barrier, about 20 µs, before yielding the core
constexpr int NAP_MICROSECONDS = 300;

static inline long read(const long* word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }
static inline void write(long* word, long value) { __atomic_store_n(word, value, __ATOMIC_SEQ_CST); }
static inline long* member_of(long* sync, long t) { return sync + MEMBERS + MEMBER_WORDS * (t - 1); }
static inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}
static inline long nanoseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000L + now.tv_nsec;
}

// Waits until all threads of the pass have arrived; passed: arrivals at earlier barriers, then at this one too.
static void barrier(long* sync, long& passed, long threads) {
  if (threads == 1) return;
  passed += threads;
  __atomic_add_fetch(sync + ARRIVED, 1, __ATOMIC_SEQ_CST);
  for (long spin = 0; spin < SPINS; spin++) {
    if (read(sync + ARRIVED) >= passed) return;
    relax();
  }
  long began = nanoseconds();
  while (read(sync + ARRIVED) < passed && !read(sync + ENDED)) sched_yield();  // ended: thread 0 was interrupted before it arrived
  __atomic_add_fetch(sync + WAITED, nanoseconds() - began, __ATOMIC_SEQ_CST);
}

// Waits until member t is invited to a pass after number `done`; returns its number, -1 if the team has ended, 0 if no
// invitation comes within `spin_limit` spins: the member then counts as asleep, and the caller must sleep until woken.
static long next_pass(long* sync, long t, long done, long spin_limit) {
  long *member = member_of(sync, t), spins = 0;
  write(member + STATE, PRESENT);
  while (read(member + INVITED) <= done) {
    if (++spins > spin_limit) {
      write(member + STATE, ASLEEP);
      if (read(member + INVITED) <= done) return 0;
      write(member + STATE, PRESENT);  // invited in the meantime
      break;
    }
    if (read(member + NAP)) {
      write(member + STATE, NAPPING);
      usleep(NAP_MICROSECONDS);
      write(member + NAP, 0);
      write(member + STATE, PRESENT);
      spins = -4 * spin_limit;  // until thread 0 ends its pass alone
    }
    relax();
  }
  return read(sync + ENDED) ? -1 : read(member + INVITED);
}

extern "C" {
// Invites every member t with ranks[t] > 0 to pass `number`; returns how many of them sleep and must be woken.
long begin_pass(long* sync, long number, const long* ranks, long threads) {
  long asleep = 0;
  for (long t = 1; t < threads; t++)
    if (ranks[t] > 0) {
      write(member_of(sync, t) + RANK, ranks[t]);
      write(member_of(sync, t) + INVITED, number);
      asleep += read(member_of(sync, t) + STATE) == ASLEEP;
    }
  return asleep;
}
// Ends the team: its members return. number: larger than that of any pass.
void end_passes(long* sync, long number, long threads) {
  __atomic_add_fetch(sync + ENDED, 1, __ATOMIC_SEQ_CST);
  for (long t = 1; t < threads; t++) write(member_of(sync, t) + INVITED, number);
}
}
