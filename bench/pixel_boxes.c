/* Boxes around images; see pixel_boxes.h. */
#include "pixel_boxes.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

void read_images(int64_t pixels, int count, uint8_t *images) {
  const char *folder = getenv("QBOUND_DATA");
  char path[1024];
  int64_t header = pixels == DIGIT ? 16 : 0, label = pixels == DIGIT ? 0 : 1;
  snprintf(path, sizeof path, "%s/%s", folder != NULL && folder[0] != '\0' ? folder : "../shared/data",
           pixels == DIGIT ? "peers/qebverif/mnist30-images-idx3-ubyte" : "cifar10/test_1000.bin");
  FILE *file = fopen(path, "rb");
  bool read = file != NULL && (pixels == DIGIT || pixels == PICTURE);
  for (int i = 0; read && i < count; i++)
    read = fseek(file, header + i * (pixels + label) + label, SEEK_SET) == 0 &&
           fread(images + i * pixels, 1, (size_t)pixels, file) == (size_t)pixels;
  if (!read) {
    fprintf(stderr, "%s cannot be read\n", path);
    exit(EXIT_FAILURE);
  }
  fclose(file);
}

void pixel_box(const uint8_t *image, int64_t pixels, double radius, float *lo, float *hi) {
  static const double mean[3] = {0.4914, 0.4822, 0.4465}, spread[3] = {0.2471, 0.2435, 0.2616};
  for (int64_t i = 0; i < pixels; i++) {
    double from = fmax(image[i] - radius, 0) / 255, to = fmin(image[i] + radius, 255) / 255;
    int64_t c = i / (PICTURE / 3);
    lo[i] = nextafterf((float)(pixels == DIGIT ? from : (from - mean[c]) / spread[c]), -INFINITY);
    hi[i] = nextafterf((float)(pixels == DIGIT ? to : (to - mean[c]) / spread[c]), INFINITY);
  }
}
