// One translation unit, so that each tile height is compiled once.
#include "attention.h"
#include "cross_entropy.h"
#include "feed_forward.h"
#include "linear.h"
#include "peak.h"
