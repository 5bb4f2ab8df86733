/* The version, from the build. */
#include <qbound/qbound.h>

const char *qb_version(void) { return QB_VERSION; }
