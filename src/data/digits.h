/* Rendered digits: images that the project makes itself, so that the demo and the tests need no downloaded data.
 *
 * Sample `index` of `seed` is a grey digit drawn with one of several pens and styles under a random affine map, an
 * elastic bend, thickness, contrast, background gradient, blur and noise; some have parts of neighbouring digits at
 * the border. The pixels are the same on every machine: the drawing uses only +, -, *, / and sqrt in double, which
 * IEEE 754 rounds correctly, and never a libm function whose last bit may differ.
 *
 * Every call is pure: no state, no allocation, safe from any number of threads. */
#ifndef QB_DATA_DIGITS_H
#define QB_DATA_DIGITS_H

#include <stdint.h>

enum {
  QB_DIGITS_CHANNELS = 1,
  QB_DIGITS_HEIGHT = 28,
  QB_DIGITS_WIDTH = 28,
  QB_DIGITS_PIXELS = QB_DIGITS_CHANNELS * QB_DIGITS_HEIGHT * QB_DIGITS_WIDTH,
  QB_DIGITS_CLASSES = 10
};

/* Draws sample `index` of `seed` into `pixels` (C, H, W), 0..255, and its class into *label (0..9). Samples 10 k to
 * 10 k + 9 hold every class once, in random order. About 0.1 ms. */
void qb_digits_image(uint64_t seed, uint64_t index, uint8_t pixels[QB_DIGITS_PIXELS], int32_t *label);

/* The class of a sample without drawing it. */
int32_t qb_digits_label(uint64_t seed, uint64_t index);

#endif
