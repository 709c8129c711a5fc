"""The words that the threads of a team share, as lmfast_kernels/cpp/team.h lays them out."""

# Offsets: nanoseconds that threads waited at barriers beyond spinning.
WAITED = 32
# Of member t, from MEMBERS + MEMBER_WORDS · (t − 1): whether it shall nap; its state.
MEMBERS, MEMBER_WORDS = 48, 32
NAP, STATE = 2, 16
PRESENT, ASLEEP = 0, 2


def sync_words(threads: int) -> int:
    return MEMBERS + MEMBER_WORDS * max(0, threads - 1)
