/* Writes generated digits as MNIST idx files, or as one PNG sheet to look at:
 *   qbound_digits COUNT SEED PREFIX   ->  PREFIX-images-idx3-ubyte, PREFIX-labels-idx1-ubyte
 *   qbound_digits COUNT SEED FILE.png ->  twenty digits a row
 * Training scripts and outside programs read the idx files. */
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/digits.h"

enum { SHEET_COLUMNS = 20 };

static void fail(const char *what, const char *path) {
  fprintf(stderr, "qbound_digits: %s %s\n", what, path);
  exit(1);
}

static void write_bytes(FILE *file, const void *bytes, size_t size, const char *path) {
  if (fwrite(bytes, 1, size, file) != size)
    fail("cannot write", path);
}

static void write_be32(FILE *file, uint32_t value, const char *path) {
  uint8_t bytes[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};
  write_bytes(file, bytes, sizeof bytes, path);
}

static FILE *open_part(const char *prefix, const char *suffix, char *path, size_t size) {
  snprintf(path, size, "%s%s", prefix, suffix);
  FILE *file = fopen(path, "wb");
  if (file == NULL)
    fail("cannot create", path);
  return file;
}

static void write_idx(uint32_t count, uint64_t seed, const char *prefix) {
  char image_path[4096], label_path[4096];
  FILE *images = open_part(prefix, "-images-idx3-ubyte", image_path, sizeof image_path);
  FILE *labels = open_part(prefix, "-labels-idx1-ubyte", label_path, sizeof label_path);
  const uint32_t image_header[] = {0x803, count, QB_DIGITS_HEIGHT, QB_DIGITS_WIDTH}, label_header[] = {0x801, count};
  for (int i = 0; i < 4; i++)
    write_be32(images, image_header[i], image_path);
  for (int i = 0; i < 2; i++)
    write_be32(labels, label_header[i], label_path);
  for (uint32_t i = 0; i < count; i++) {
    uint8_t pixels[QB_DIGITS_PIXELS];
    int32_t label;
    qb_digits_image(seed, i, pixels, &label);
    write_bytes(images, pixels, sizeof pixels, image_path);
    write_bytes(labels, &(uint8_t){(uint8_t)label}, 1, label_path);
  }
  if (fclose(images) != 0 || fclose(labels) != 0)
    fail("cannot write", prefix);
}

static void write_sheet(uint32_t count, uint64_t seed, const char *path) {
  const uint32_t cell = QB_DIGITS_WIDTH + 2, rows = (count + SHEET_COLUMNS - 1) / SHEET_COLUMNS;
  png_image image = {.version = PNG_IMAGE_VERSION, .format = PNG_FORMAT_GRAY};
  image.width = SHEET_COLUMNS * cell;
  image.height = rows * cell;
  uint8_t *sheet = calloc((size_t)image.width, image.height);
  if (sheet == NULL)
    fail("no memory for", path);
  for (uint32_t i = 0; i < count; i++) {
    uint8_t pixels[QB_DIGITS_PIXELS];
    int32_t label;
    qb_digits_image(seed, i, pixels, &label);
    uint8_t *corner = sheet + (size_t)(i / SHEET_COLUMNS * cell + 1) * image.width + i % SHEET_COLUMNS * cell + 1;
    for (size_t row = 0; row < QB_DIGITS_HEIGHT; row++)
      memcpy(corner + row * image.width, pixels + row * QB_DIGITS_WIDTH, QB_DIGITS_WIDTH);
  }
  int written = png_image_write_to_file(&image, path, 0, sheet, 0, NULL);
  free(sheet);
  if (written == 0)
    fail("cannot write", path);
}

int main(int argc, char **argv) {
  if (argc != 4 || strtoul(argv[1], NULL, 10) == 0 || strtoul(argv[1], NULL, 10) > UINT32_MAX) {
    fprintf(stderr, "usage: qbound_digits COUNT SEED PREFIX|FILE.png\n");
    return 2;
  }
  uint32_t count = (uint32_t)strtoul(argv[1], NULL, 10);
  uint64_t seed = strtoull(argv[2], NULL, 10);
  size_t length = strlen(argv[3]);
  if (length > 4 && strcmp(argv[3] + length - 4, ".png") == 0)
    write_sheet(count, seed, argv[3]);
  else
    write_idx(count, seed, argv[3]);
  return 0;
}
