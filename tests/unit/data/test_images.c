/* The image decoders: known pixels, damaged and hostile files, memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "data/image.h"
#include "support/faults.h"
#include "support/temp_folder.h"

#define FIXTURES QB_TEST_DIR "/golden/data/"

static const char *const fixture_names[] = {
    "420.jpg",        "422.jpg",   "444.jpeg",       "progressive.jpg", "grey.jpg",    "tall.jpg",
    "rgb.png",        "grey.png",  "bits1.png",      "bits2.png",       "palette.png", "alpha.png",
    "grey_alpha.png", "rgb16.png", "interlaced.png", "transparent.png",
};
enum { FIXTURE_COUNT = sizeof fixture_names / sizeof fixture_names[0] };

static unsigned char *read_fixture(const char *name, size_t *size) {
  char path[512];
  snprintf(path, sizeof path, FIXTURES "%s", name);
  return read_whole_file(path, size);
}

/* Decodes a copy whose end is the end of its block, so that a sanitizer sees reads beyond it. */
static qb_status decode(const unsigned char *data, size_t size, qb_image *image, qb_error *error) {
  unsigned char *copy = malloc(size > 0 ? size : 1);
  assert_non_null(copy);
  memcpy(copy, data, size);
  qb_status status = size > 0 && data[0] == 0xff ? qb_image_decode_jpeg(copy, size, "x.jpg", image, error)
                                                 : qb_image_decode_png(copy, size, "x.png", image, error);
  free(copy);
  return status;
}

static void two_bit_grey_has_known_pixels(void **state) {
  (void)state;
  static const uint8_t wanted[16] = {0, 85, 170, 255, 255, 170, 85, 0, 255, 255, 255, 255, 0, 0, 0, 0};
  qb_image image;
  assert_int_equal(qb_image_read(FIXTURES "bits2.png", &image, NULL), QB_OK);
  assert_true(image.height == 2 && image.width == 8 && image.channels == 3);
  for (int i = 0; i < 48; i++)
    assert_int_equal(image.pixels[i], wanted[i / 3]);
  qb_image_free(&image);
}

static void interlacing_changes_nothing(void **state) {
  (void)state;
  qb_image a, b;
  assert_int_equal(qb_image_read(FIXTURES "interlaced.png", &a, NULL), QB_OK);
  assert_int_equal(qb_image_read(FIXTURES "rgb.png", &b, NULL), QB_OK);
  assert_true(a.height == b.height && a.width == b.width);
  assert_memory_equal(a.pixels, b.pixels, (size_t)(a.height * a.width * 3));
  qb_image_free(&a);
  qb_image_free(&b);
}

static void cmyk_names_the_file_and_the_remedy(void **state) {
  (void)state;
  qb_image image;
  qb_error error = {0};
  assert_int_equal(qb_image_read(FIXTURES "cmyk.jpg", &image, &error), QB_ERROR_UNSUPPORTED);
  assert_non_null(strstr(error.message, "cmyk.jpg"));
  assert_non_null(strstr(error.message, "convert it to RGB"));
  assert_null(image.pixels);
}

static void other_formats_and_missing_files_are_refused(void **state) {
  const temp_folder *folder = *state;
  qb_image image;
  qb_error error = {0};
  const char *gif = temp_write(folder, "a.png", "GIF89a..", 8);
  assert_int_equal(qb_image_read(gif, &image, &error), QB_ERROR_UNSUPPORTED);
  assert_non_null(strstr(error.message, gif));
  assert_int_equal(qb_image_read(temp_write(folder, "b.png", "", 0), &image, &error), QB_ERROR_UNSUPPORTED);
  assert_int_equal(qb_image_read(folder->path, &image, &error), QB_ERROR_IO);
  assert_int_equal(qb_image_read(temp_path(folder, "absent.png"), &image, &error), QB_ERROR_IO);
  assert_non_null(strstr(error.message, "absent.png"));
}

/* Every prefix that lacks pixels is an error that says so. A JPEG without its last two bytes (the end marker) lacks
 * none, but is refused too; a PNG is complete only with its IEND chunk. */
static void truncated_files_are_refused(void **state) {
  (void)state;
  for (int i = 0; i < FIXTURE_COUNT; i++) {
    size_t size;
    unsigned char *data = read_fixture(fixture_names[i], &size);
    for (size_t length = 1; length < size - 4; length += 1 + length / 16) {
      qb_image image;
      qb_error error = {0};
      if (decode(data, length, &image, &error) != QB_ERROR_FORMAT || image.pixels != NULL)
        fail_msg("%s cut to %zu bytes is accepted", fixture_names[i], length);
      assert_non_null(strstr(error.message, "cannot decode"));
    }
    free(data);
  }
}

/* Bytes changed at random: decoded or refused, without a read or write out of bounds, and pixels only with QB_OK. */
static void damaged_files_do_no_harm(void **state) {
  (void)state;
  qb_rng rng;
  qb_rng_seed(&rng, 3, 0);
  for (int round = 0; round < 1500; round++) {
    size_t size;
    unsigned char *data = read_fixture(fixture_names[round % FIXTURE_COUNT], &size);
    for (uint64_t changes = 1 + qb_rng_below(&rng, 6); changes > 0; changes--)
      data[qb_rng_below(&rng, size)] = (unsigned char)qb_rng_below(&rng, 256);
    qb_image image;
    qb_error error = {0};
    qb_status status = decode(data, size, &image, &error);
    assert_true((status == QB_OK) == (image.pixels != NULL));
    assert_true(status == QB_OK || error.message[0] != '\0');
    qb_image_free(&image);
    free(data);
  }
}

/* The same header with other sizes: a few bytes must not cost gigabytes. */
static void absurd_sizes_are_refused(void **state) {
  (void)state;
  size_t size;
  qb_image image;
  qb_error error = {0};
  unsigned char *jpeg = read_fixture("grey.jpg", &size);
  unsigned char *frame = jpeg;
  while (!(frame[0] == 0xff && frame[1] == 0xc0))
    frame++;
  memset(frame + 5, 0xff, 4); /* 65535 x 65535 */
  assert_int_equal(decode(jpeg, size, &image, &error), QB_ERROR_FORMAT);
  memset(frame + 5, 0, 4);
  assert_int_equal(decode(jpeg, size, &image, &error), QB_ERROR_FORMAT);
  free(jpeg);

  /* 2^14 x 2^14 pixels are within the limit, but 71 bytes cannot hold them; the checksum is that of this header */
  static const unsigned char png[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n', 0,    0, 0,  13,
                                      'I',  'H', 'D', 'R', 0,    0,    64,   0,    0,    0, 64, 0,
                                      8,    2,   0,   0,   0,    0x26, 0xaa, 0x87, 0xd3, 0, 0,  0,
                                      0,    'I', 'D', 'A', 'T',  0x35, 0xaf, 0x06, 0x1e};
  assert_int_equal(decode(png, sizeof png, &image, &error), QB_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "promises more pixels"));
  assert_int_equal(qb_image_create(&image, 1 << 15, 1 << 14, 3, "x", &error), QB_ERROR_FORMAT);
  assert_int_equal(qb_image_create(&image, -1, 5, 3, "x", &error), QB_ERROR_FORMAT);
}

static qb_status read_and_resize(void *context, qb_error *error) {
  qb_image image, resized = {0};
  qb_status status = qb_image_read(context, &image, error);
  if (status == QB_OK)
    status = qb_image_resize(&image, 9, 7, "x", &resized, error);
  qb_image_free(&image);
  qb_image_free(&resized);
  return status;
}

static void every_failed_allocation_is_reported(void **state) {
  (void)state;
  char jpeg[] = FIXTURES "420.jpg", png[] = FIXTURES "palette.png";
  assert_true(fault_every_allocation(read_and_resize, jpeg, 40) >= 5);
  assert_true(fault_every_allocation(read_and_resize, png, 40) >= 5);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(two_bit_grey_has_known_pixels),
      cmocka_unit_test(interlacing_changes_nothing),
      cmocka_unit_test(cmyk_names_the_file_and_the_remedy),
      cmocka_unit_test_setup_teardown(other_formats_and_missing_files_are_refused, temp_folder_create,
                                      temp_folder_remove),
      cmocka_unit_test(truncated_files_are_refused),
      cmocka_unit_test(damaged_files_do_no_harm),
      cmocka_unit_test(absurd_sizes_are_refused),
      cmocka_unit_test(every_failed_allocation_is_reported),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
