/* The example network that ships inside the command, so that `qbound demo` needs no file: examples/demo/digits.onnx,
 * turned into an array at build time by cmake/Embed.cmake. */
#ifndef QB_CLI_DEMO_MODEL_H
#define QB_CLI_DEMO_MODEL_H

#include <stddef.h>

extern const unsigned char qb_demo_model_bytes[];
extern const size_t qb_demo_model_bytes_size;

/* The bytes of the ONNX file; static. Input (N, 1, 28, 28) in [0,1], output (N, 10). */
static inline void qb_demo_model(const void **bytes, size_t *size_bytes) {
  *bytes = qb_demo_model_bytes;
  *size_bytes = qb_demo_model_bytes_size;
}

#endif
