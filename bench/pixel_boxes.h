/* Boxes around images for benchmarks of balls: digits, or CIFAR-10 images less their mean and over their spread. */
#ifndef QB_BENCH_PIXEL_BOXES_H
#define QB_BENCH_PIXEL_BOXES_H

#include <stdint.h>

enum { IMAGES = 30, DIGIT = 784, PICTURE = 3072 };

/* The pixels of `count` images of the size, one after the other, from $QBOUND_DATA, else ../shared/data. Ends the
 * program where they cannot be read. */
void read_images(int64_t pixels, int count, uint8_t *images);

/* All inputs within `radius` of an image's pixels, in steps of pixels. */
void pixel_box(const uint8_t *image, int64_t pixels, double radius, float *lo, float *hi);

#endif
