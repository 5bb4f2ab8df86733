/* A perceptron of three layers of 20 units, trained on drawn digits: real weights for tests of certificates, in a
 * second. A failure fails the running test. */
#ifndef QB_TEST_TINY_NETWORK_H
#define QB_TEST_TINY_NETWORK_H

#include <qbound/qbound.h>

/* Trains it into the file `path`; the seeds are fixed. */
void tiny_network_train(const char *path);

/* Writes `model` with weights of `bits` bits into the file `path`. */
void tiny_network_quantize(const qb_model *model, int bits, const char *path);

#endif
