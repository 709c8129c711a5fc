"""The words that the threads of a team share, as lmfast_kernels/cpp/team.h lays them out."""

# Offsets: nanoseconds that threads waited at barriers beyond spinning.
WAITED = 32
# Of member t, from MEMBERS + MEMBER_WORDS · (t − 1): the newest pass it is invited to, its rank there, whether it shall nap;
# its state.
MEMBERS, MEMBER_WORDS = 48, 32
INVITED, RANK, NAP, STATE = 0, 1, 2, 16
PRESENT, NAPPING, ASLEEP = range(3)


def sync_words(threads: int) -> int:
    return MEMBERS + MEMBER_WORDS * max(0, threads - 1)
