/* Every format a dataset can have: what is read, how it is labelled, and what each kind of bad file says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

#include "data/dataset.h"
#include "support/faults.h"
#include "support/temp_folder.h"

#define FIXTURES QB_TEST_DIR "/golden/data/"

/* ------------------------------------------------------------------------------------------------------- helpers */

static qb_dataset *opened(const char *path, const char *preprocess, const char *labels, int64_t skip, int64_t samples) {
  qb_dataset *dataset;
  qb_error error = {0};
  qb_dataset_settings settings = {.labels = labels, .samples = samples, .skip = skip};
  assert_int_equal(qb_preprocess_parse(preprocess, &settings.preprocess, &error), QB_OK);
  if (qb_dataset_open(path, &settings, &dataset, &error) != QB_OK)
    fail_msg("%s", error.message);
  return dataset;
}

/* Opening must fail with `status`, and the message must name the file and hold `words`. */
static void refused(const char *path, const char *labels, qb_status status, const char *words) {
  qb_dataset *dataset;
  qb_error error = {0};
  qb_dataset_settings settings = {.labels = labels};
  assert_int_equal(qb_preprocess_parse("raw", &settings.preprocess, &error), QB_OK);
  qb_status given = qb_dataset_open(path, &settings, &dataset, &error);
  const char *slash = strrchr(path, '/'), *name = slash == NULL ? path : slash + 1;
  bool named = strstr(error.message, name) != NULL || (labels != NULL && strstr(error.message, labels) != NULL);
  if (given != status || dataset != NULL || !named || strstr(error.message, words) == NULL)
    fail_msg("%s: status %s, message '%s', wanted %s with '%s'", path, qb_status_name(given), error.message,
             qb_status_name(status), words);
}

static void copy_fixture(const temp_folder *folder, const char *fixture, const char *name) {
  size_t size;
  char path[512];
  snprintf(path, sizeof path, FIXTURES "%s", fixture);
  unsigned char *data = read_whole_file(path, &size);
  temp_write(folder, name, data, size);
  free(data);
}

static const char *write_text(const temp_folder *folder, const char *name, const char *text) {
  return temp_write(folder, name, text, strlen(text));
}

/* A .npy file with a header of version 1. */
static const char *write_npy(const temp_folder *folder, const char *name, const char *type, const char *order,
                             const char *shape, const void *data, size_t size) {
  unsigned char file[4096] = "\x93NUMPY\x01";
  int length =
      snprintf((char *)file + 10, 118, "{'descr': %s, 'fortran_order': %s, 'shape': %s, }", type, order, shape);
  memset(file + 10 + length, ' ', (size_t)(117 - length));
  file[127] = '\n';
  file[8] = 118;
  assert_true(size <= sizeof file - 128);
  memcpy(file + 128, data, size);
  return temp_write(folder, name, file, 128 + size);
}

static const char *write_idx(const temp_folder *folder, const char *name, int type, int rank, const int *dims,
                             const unsigned char *data, size_t size) {
  unsigned char file[4096] = {0, 0, (unsigned char)type, (unsigned char)rank};
  for (int i = 0; i < rank; i++) {
    file[4 + 4 * i + 2] = (unsigned char)(dims[i] >> 8);
    file[4 + 4 * i + 3] = (unsigned char)dims[i];
  }
  size_t header = 4 + 4 * (size_t)rank;
  assert_true(header + size <= sizeof file);
  memcpy(file + header, data, size);
  return temp_write(folder, name, file, header + size);
}

static const char *compress_file(const temp_folder *folder, const char *from, const char *name) {
  size_t size;
  unsigned char *data = read_whole_file(from, &size);
  const char *path = temp_path(folder, name);
  gzFile file = gzopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(gzwrite(file, data, (unsigned)size), size);
  assert_int_equal(gzclose(file), Z_OK);
  free(data);
  return path;
}

/* ------------------------------------------------------------------------------------------------------- folders */

static void labels_txt_gives_order_and_classes(void **state) {
  const temp_folder *folder = *state;
  copy_fixture(folder, "rgb.png", "b.png");
  copy_fixture(folder, "420.jpg", "a b.jpg");
  copy_fixture(folder, "interlaced.png", "deep/c.png");
  write_text(folder, "labels.txt", "b.png 7\r\n\na b.jpg\t0\ndeep/c.png 999\n");
  qb_dataset *dataset = opened(folder->path, "raw", NULL, 0, 0);
  assert_int_equal(qb_dataset_count(dataset), 3);
  assert_int_equal(qb_dataset_label(dataset, 0), 7);
  assert_int_equal(qb_dataset_label(dataset, 1), 0);
  assert_int_equal(qb_dataset_label(dataset, 2), 999);
  assert_string_equal(qb_dataset_name(dataset, 1), "a b.jpg");
  assert_string_equal(qb_dataset_name(dataset, 2), "deep/c.png");
  qb_shape shape = qb_dataset_shape(dataset);
  assert_true(qb_shape_equal(&shape, &QB_SHAPE(3, 17, 25)));
  qb_dataset_free(dataset);

  dataset = opened(folder->path, "raw", NULL, 1, 1);
  assert_int_equal(qb_dataset_count(dataset), 1);
  assert_string_equal(qb_dataset_name(dataset, 0), "a b.jpg");
  qb_dataset_free(dataset);

  const char *other = write_text(folder, "other.txt", "a b.jpg 3");
  dataset = opened(folder->path, "raw", other, 0, 0);
  assert_int_equal(qb_dataset_count(dataset), 1);
  assert_int_equal(qb_dataset_label(dataset, 0), 3);
  qb_dataset_free(dataset);
}

static void bad_label_lists_are_refused(void **state) {
  const temp_folder *folder = *state;
  static const char *const bad[] = {"a.png\n", "a.png x\n", "3\n", "a.png -1\n", "a.png 12345678901\n", "a.png3\n"};
  copy_fixture(folder, "rgb.png", "a.png");
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    write_text(folder, "labels.txt", bad[i]);
    refused(folder->path, NULL, QB_ERROR_FORMAT, "line 1 is not 'file index'");
  }
  temp_write(folder, "labels.txt", "a\0b.png 3\n", 10);
  refused(folder->path, NULL, QB_ERROR_FORMAT, "line 1");
  write_text(folder, "labels.txt", "\n\n");
  refused(folder->path, NULL, QB_ERROR_FORMAT, "lists no images");
  write_text(folder, "labels.txt", "a.png 0\nabsent.png 1\n");
  refused(folder->path, NULL, QB_ERROR_IO, "absent.png");
  qb_dataset *dataset = opened(folder->path, "raw", NULL, 0, 1); /* only what is used has to exist */
  qb_dataset_free(dataset);
}

static void class_folders_are_classes_by_name(void **state) {
  const temp_folder *folder = *state;
  copy_fixture(folder, "rgb.png", "n02/z.PNG");
  copy_fixture(folder, "rgb.png", "n02/a.png");
  copy_fixture(folder, "420.jpg", "n01/x.JPEG");
  copy_fixture(folder, "422.jpg", "n10/y.jpg");
  write_text(folder, "n01/notes.txt", "not an image");
  write_text(folder, "notes.txt", "not an image");
  mkdir(temp_path(folder, "n03"), 0700); /* without images, but a class all the same */
  mkdir(temp_path(folder, ".hidden"), 0700);
  qb_dataset *dataset = opened(folder->path, "raw", NULL, 0, 0);
  static const char *const names[] = {"n01/x.JPEG", "n02/a.png", "n02/z.PNG", "n10/y.jpg"};
  static const int32_t labels[] = {0, 1, 1, 3};
  assert_int_equal(qb_dataset_count(dataset), 4);
  for (int i = 0; i < 4; i++) {
    assert_string_equal(qb_dataset_name(dataset, i), names[i]);
    assert_int_equal(qb_dataset_label(dataset, i), labels[i]);
  }
  qb_dataset_free(dataset);
  write_text(folder, "n01/labels.txt", "x.JPEG 5");
  refused(folder->path, NULL, QB_ERROR_FORMAT, "labels.txt of its own");
}

static void unlabelled_folders_and_single_files(void **state) {
  const temp_folder *folder = *state;
  refused(folder->path, NULL, QB_ERROR_FORMAT, "no JPEG or PNG images");
  copy_fixture(folder, "rgb.png", "2.png");
  copy_fixture(folder, "420.jpg", "1.jpg");
  qb_dataset *dataset = opened(folder->path, "raw", NULL, 0, 0);
  assert_int_equal(qb_dataset_count(dataset), 2);
  assert_string_equal(qb_dataset_name(dataset, 0), "1.jpg");
  assert_int_equal(qb_dataset_label(dataset, 0), -1);
  qb_dataset_free(dataset);

  dataset = opened(FIXTURES "rgb.png", "raw", NULL, 0, 0);
  assert_int_equal(qb_dataset_count(dataset), 1);
  assert_string_equal(qb_dataset_name(dataset, 0), "rgb.png");
  assert_int_equal(qb_dataset_label(dataset, 0), -1);
  qb_dataset_free(dataset);

  copy_fixture(folder, "rgb.png", "class/3.png");
  refused(folder->path, NULL, QB_ERROR_FORMAT, "both images and folders");
  refused(temp_path(folder, "nothing"), NULL, QB_ERROR_IO, "No such file");
  refused(write_text(folder, "what.dat", "what is this"), NULL, QB_ERROR_UNSUPPORTED, "not a kind of data");
}

static void sizes_that_differ_name_the_file(void **state) {
  const temp_folder *folder = *state;
  static float sample[3 * 25 * 17];
  qb_error error = {0};
  copy_fixture(folder, "rgb.png", "1.png");
  copy_fixture(folder, "tall.jpg", "2.jpg");
  qb_dataset *dataset = opened(folder->path, "raw", NULL, 0, 0);
  assert_int_equal(qb_dataset_read(dataset, 0, sample, &error), QB_OK);
  assert_int_equal(qb_dataset_read(dataset, 1, sample, &error), QB_ERROR_SHAPE);
  assert_non_null(strstr(error.message, "2.jpg"));
  assert_non_null(strstr(error.message, "3x33x14"));
  assert_non_null(strstr(error.message, "3x17x25"));
  qb_dataset_free(dataset);
  dataset = opened(folder->path, "crop=8", NULL, 0, 0);
  assert_int_equal(qb_dataset_read(dataset, 1, sample, &error), QB_OK);
  assert_int_equal(qb_dataset_read(dataset, 2, sample, &error), QB_ERROR_ARGUMENT);
  assert_int_equal(qb_dataset_read(dataset, -1, sample, &error), QB_ERROR_ARGUMENT);
  qb_dataset_free(dataset);
}

static void skip_and_samples_limit(void **state) {
  const temp_folder *folder = *state;
  copy_fixture(folder, "rgb.png", "1.png");
  qb_dataset *dataset;
  qb_error error = {0};
  qb_dataset_settings settings = {.skip = 1};
  assert_int_equal(qb_preprocess_parse("raw", &settings.preprocess, &error), QB_OK);
  assert_int_equal(qb_dataset_open(folder->path, &settings, &dataset, &error), QB_ERROR_ARGUMENT);
  assert_non_null(strstr(error.message, "leaves nothing of the 1"));
  settings.skip = -1;
  assert_int_equal(qb_dataset_open(folder->path, &settings, &dataset, &error), QB_ERROR_ARGUMENT);
  settings = (qb_dataset_settings){.preprocess = settings.preprocess, .samples = -1};
  assert_int_equal(qb_dataset_open(folder->path, &settings, &dataset, &error), QB_ERROR_ARGUMENT);
  settings.samples = 100; /* as many as there are */
  assert_int_equal(qb_dataset_open(folder->path, &settings, &dataset, &error), QB_OK);
  assert_int_equal(qb_dataset_count(dataset), 1);
  qb_dataset_free(dataset);
}

/* ----------------------------------------------------------------------------------------------------------- npy */

static void npy_types_and_labels(void **state) {
  const temp_folder *folder = *state;
  const float f32[] = {0.5f, -1, 2, 3, 4, 5, 6, 1e-30f};
  double f64[8];
  uint8_t u8[8];
  for (int i = 0; i < 8; i++) {
    f64[i] = (double)f32[i];
    u8[i] = (uint8_t)(i * 36);
  }
  const int64_t classes[] = {3, 2147483647};
  const uint8_t small[] = {9, 255};
  write_npy(folder, "a.npy", "'<f4'", "False", "(2, 1, 2, 2)", f32, sizeof f32);
  write_npy(folder, "b.npy", "'<f8'", "False", "(2, 1, 2, 2)", f64, sizeof f64);
  write_npy(folder, "c.npy", "'|u1'", "False", "(2, 4)", u8, sizeof u8);
  write_npy(folder, "a_labels.npy", "'<i8'", "False", "(2,)", classes, sizeof classes);
  const char *elsewhere = write_npy(folder, "deep/l.npy", "'|u1'", "False", "(2, 1)", small, sizeof small);
  float sample[4];
  for (int which = 0; which < 2; which++) {
    qb_dataset *dataset = opened(temp_path(folder, which == 0 ? "a.npy" : "b.npy"), "raw", NULL, 0, 0);
    assert_int_equal(qb_dataset_count(dataset), 2);
    assert_int_equal(qb_dataset_label(dataset, 1), which == 0 ? 2147483647 : -1);
    assert_int_equal(qb_dataset_read(dataset, 1, sample, NULL), QB_OK);
    assert_memory_equal(sample, f32 + 4, sizeof sample);
    assert_string_equal(qb_dataset_name(dataset, 1), "record 1");
    qb_dataset_free(dataset);
  }
  qb_dataset *dataset = opened(temp_path(folder, "c.npy"), "unit", elsewhere, 1, 0);
  assert_int_equal(qb_dataset_label(dataset, 0), 255);
  assert_string_equal(qb_dataset_name(dataset, 0), "record 1");
  assert_int_equal(qb_dataset_read(dataset, 0, sample, NULL), QB_OK);
  assert_true(sample[0] == 144.0f / 255.0f && sample[3] == 252.0f / 255.0f);
  qb_shape shape = qb_dataset_shape(dataset);
  assert_true(qb_shape_equal(&shape, &QB_SHAPE(4)));
  qb_dataset_free(dataset);

  write_npy(folder, "labels.npy", "'<u2'", "False", "(2,)", "\x01\x00\x00\x01", 4); /* serves every file beside it */
  dataset = opened(temp_path(folder, "c.npy"), "raw", NULL, 0, 0);
  assert_int_equal(qb_dataset_label(dataset, 1), 256);
  qb_dataset_free(dataset);
}

static void npy_later_versions_have_long_headers(void **state) {
  const temp_folder *folder = *state;
  const char header[] = "{'shape': (1L, 2), 'descr': '|u1', 'fortran_order': False}\n";
  unsigned char file[256] = "\x93NUMPY\x02";
  file[8] = sizeof header - 1;
  memcpy(file + 12, header, sizeof header - 1);
  file[12 + sizeof header - 1] = 7;
  file[12 + sizeof header] = 8;
  qb_dataset *dataset = opened(temp_write(folder, "v2.npy", file, 12 + sizeof header + 1), "raw", NULL, 0, 0);
  float sample[2];
  assert_int_equal(qb_dataset_read(dataset, 0, sample, NULL), QB_OK);
  assert_true(sample[0] == 7.0f && sample[1] == 8.0f);
  qb_dataset_free(dataset);
}

static void bad_npy_files_are_refused(void **state) {
  const temp_folder *f = *state;
  unsigned char zeros[256] = {0};
  refused(write_npy(f, "a.npy", "'<f4'", "False", "(2, 4)", zeros, 31), NULL, QB_ERROR_FORMAT, "truncated");
  refused(write_npy(f, "a.npy", "'<f4'", "False", "(2, 4)", zeros, 33), NULL, QB_ERROR_FORMAT, "truncated");
  refused(write_npy(f, "a.npy", "'<f4'", "True", "(2, 4)", zeros, 32), NULL, QB_ERROR_UNSUPPORTED, "Fortran");
  refused(write_npy(f, "a.npy", "'>f4'", "False", "(2, 4)", zeros, 32), NULL, QB_ERROR_UNSUPPORTED, "'>f4'");
  refused(write_npy(f, "a.npy", "'<f2'", "False", "(2, 4)", zeros, 16), NULL, QB_ERROR_UNSUPPORTED, "'<f2'");
  refused(write_npy(f, "a.npy", "[('x', '<f4')]", "False", "(2, 4)", zeros, 32), NULL, QB_ERROR_UNSUPPORTED, "plain");
  refused(write_npy(f, "a.npy", "'|O'", "False", "(2, 4)", zeros, 32), NULL, QB_ERROR_UNSUPPORTED, "'|O'");
  refused(write_npy(f, "a.npy", "'<f4'", "False", "(8,)", zeros, 32), NULL, QB_ERROR_FORMAT, "two axes");
  refused(write_npy(f, "a.npy", "'<f4'", "False", "()", zeros, 4), NULL, QB_ERROR_FORMAT, "shape");
  refused(write_npy(f, "a.npy", "'<f4'", "False", "(0, 4)", zeros, 0), NULL, QB_ERROR_FORMAT, "no samples");
  refused(write_npy(f, "a.npy", "'<f4'", "False", "(2, 0)", zeros, 0), NULL, QB_ERROR_SHAPE, "shape 0");
  refused(write_npy(f, "a.npy", "'<f4'", "False", "(2, -4)", zeros, 32), NULL, QB_ERROR_FORMAT, "header");
  refused(write_npy(f, "a.npy", "'<f4'", "False", "(2, 99999999999999999999)", zeros, 32), NULL, QB_ERROR_FORMAT, "");
  refused(write_npy(f, "a.npy", "'<f4'", "False", "(4294967296, 4294967296)", zeros, 32), NULL, QB_ERROR_FORMAT, "");
  refused(write_npy(f, "a.npy", "'<f4'", "False", "(1,1,1,1,1,1,1,1,8)", zeros, 32), NULL, QB_ERROR_FORMAT, "header");
  refused(write_npy(f, "a.npy", "'<f4'", "False", "(2, 4", zeros, 32), NULL, QB_ERROR_FORMAT, "header");
  refused(write_npy(f, "a.npy", "'<f4", "False", "(2, 4)", zeros, 32), NULL, QB_ERROR_UNSUPPORTED, "elements");
  refused(write_text(f, "a.npy", "NUMPY"), NULL, QB_ERROR_FORMAT, "too short");
  refused(write_text(f, "a.npy", "this is not a .npy file at all"), NULL, QB_ERROR_FORMAT, "not a .npy file");
  refused(temp_write(f, "a.npy", "\x93NUMPY\x01\0\xff\xff and nothing more", 26), NULL, QB_ERROR_FORMAT, "truncated");
  mkdir(temp_path(f, "folder.npy"), 0700);
  refused(temp_path(f, "folder.npy"), NULL, QB_ERROR_FORMAT, "no JPEG or PNG");
}

static void bad_npy_labels_are_refused(void **state) {
  const temp_folder *f = *state;
  const char *data = write_npy(f, "a.npy", "'|u1'", "False", "(2, 2)", "abcd", 4);
  const char *l = temp_path(f, "l.npy");
  refused(data, l, QB_ERROR_IO, "No such file");
  write_npy(f, "l.npy", "'|u1'", "False", "(3,)", "abc", 3);
  refused(data, l, QB_ERROR_FORMAT, "3 labels for the 2 samples");
  write_npy(f, "l.npy", "'<f4'", "False", "(2,)", "abcdefgh", 8);
  refused(data, l, QB_ERROR_UNSUPPORTED, "labels of type '<f4'");
  write_npy(f, "l.npy", "'<i2'", "False", "(2,)", "\x01\x00\xff\xff", 4);
  refused(data, l, QB_ERROR_FORMAT, "label 1 is not a class number");
  write_npy(f, "l.npy", "'<u4'", "False", "(2,)", "\x01\x00\x00\x80\x00\x00\x00\x00", 8);
  refused(data, l, QB_ERROR_FORMAT, "label 0 is not a class number");
  write_npy(f, "l.npy", "'<i4'", "False", "(2,)", "abcdefg", 7);
  refused(data, l, QB_ERROR_FORMAT, "truncated");
  write_npy(f, "l.npy", "'|u1'", "False", "(2, 2)", "abcd", 4);
  refused(data, l, QB_ERROR_FORMAT, "4 labels");
}

/* ----------------------------------------------------------------------------------------------------------- idx */

static void check_idx(qb_dataset *dataset, int32_t label) {
  float sample[6];
  qb_shape shape = qb_dataset_shape(dataset);
  assert_true(qb_shape_equal(&shape, &QB_SHAPE(1, 2, 3)));
  assert_int_equal(qb_dataset_count(dataset), 2);
  assert_int_equal(qb_dataset_label(dataset, 1), label);
  assert_int_equal(qb_dataset_read(dataset, 1, sample, NULL), QB_OK);
  assert_true(sample[0] == 6.0f && sample[5] == 11.0f);
  qb_dataset_free(dataset);
}

static void idx_plain_and_compressed(void **state) {
  const temp_folder *f = *state;
  const unsigned char pixels[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, classes[2] = {3, 200};
  const char *images = write_idx(f, "images/t-images-idx3-ubyte", 8, 3, (int[]){2, 2, 3}, pixels, 12);
  check_idx(opened(images, "raw", NULL, 0, 0), -1);
  const char *labels = write_idx(f, "images/t-labels-idx1-ubyte", 8, 1, (int[]){2}, classes, 2);
  check_idx(opened(images, "raw", NULL, 0, 0), 200);
  const char *zipped = compress_file(f, images, "t-images-idx3-ubyte.gz");
  check_idx(opened(zipped, "raw", NULL, 0, 0), -1);
  check_idx(opened(zipped, "raw", labels, 0, 0), 200);
  compress_file(f, labels, "t-labels-idx1-ubyte.gz");
  check_idx(opened(zipped, "raw", NULL, 0, 0), 200);
  check_idx(opened(f->path, "raw", NULL, 0, 0), 200); /* a folder that holds idx files */

  const unsigned char colour[12] = {0};
  qb_dataset *dataset = opened(write_idx(f, "c-idx4", 8, 4, (int[]){1, 3, 2, 2}, colour, 12), "raw", NULL, 0, 0);
  qb_shape shape = qb_dataset_shape(dataset);
  assert_true(qb_shape_equal(&shape, &QB_SHAPE(3, 2, 2)));
  qb_dataset_free(dataset);
}

static void a_folder_of_idx_files_prefers_the_test_images(void **state) {
  const temp_folder *f = *state;
  const unsigned char pixels[3] = {1, 2, 3};
  write_idx(f, "a-images-idx3-ubyte", 8, 3, (int[]){3, 1, 1}, pixels, 3);
  qb_dataset *dataset = opened(f->path, "raw", NULL, 0, 0);
  assert_int_equal(qb_dataset_count(dataset), 3);
  qb_dataset_free(dataset);
  write_idx(f, "t10k-images-idx3-ubyte", 8, 3, (int[]){2, 1, 1}, pixels, 2);
  dataset = opened(f->path, "raw", NULL, 0, 0);
  assert_int_equal(qb_dataset_count(dataset), 2);
  qb_dataset_free(dataset);
}

static void bad_idx_files_are_refused(void **state) {
  const temp_folder *f = *state;
  const unsigned char zeros[64] = {0};
  refused(write_idx(f, "a-idx3", 8, 3, (int[]){2, 2, 3}, zeros, 11), NULL, QB_ERROR_FORMAT, "truncated");
  refused(write_idx(f, "a-idx3", 8, 3, (int[]){2, 2, 3}, zeros, 13), NULL, QB_ERROR_FORMAT, "goes on after");
  refused(write_idx(f, "a-idx3", 0x0d, 3, (int[]){2, 2, 3}, zeros, 48), NULL, QB_ERROR_UNSUPPORTED, "0x0d");
  refused(write_idx(f, "a-idx3", 8, 1, (int[]){12}, zeros, 12), NULL, QB_ERROR_FORMAT, "name the images file");
  refused(write_idx(f, "a-idx3", 8, 3, (int[]){0, 2, 3}, zeros, 0), NULL, QB_ERROR_FORMAT, "no samples");
  refused(write_idx(f, "a-idx3", 8, 3, (int[]){2, 0, 3}, zeros, 0), NULL, QB_ERROR_SHAPE, "1x0x3");
  refused(temp_write(f, "a-idx3", zeros, 3), NULL, QB_ERROR_FORMAT, "not an MNIST idx file");
  refused(temp_write(f, "a-idx3", "\0\0\10\3\0\0\0\1", 8), NULL, QB_ERROR_FORMAT, "truncated");
  refused(temp_write(f, "a-idx3", "\0\0\10\3\377\377\377\377\377\377\377\377\377\377\377\377", 16), NULL,
          QB_ERROR_FORMAT, "promises");
  refused(temp_write(f, "a-idx3", "\0\0\10\3\0\0\377\377\0\0\0\377\0\0\0\377", 16), NULL, QB_ERROR_FORMAT,
          "more than the file can hold");

  const char *images = write_idx(f, "b-images-idx3-ubyte", 8, 3, (int[]){2, 2, 3}, zeros, 12);
  const char *labels = write_idx(f, "b-labels-idx1-ubyte", 8, 1, (int[]){3}, zeros, 3);
  refused(images, NULL, QB_ERROR_FORMAT, "3 labels for the 2 images");
  refused(images, images, QB_ERROR_FORMAT, "labels have one dimension");
  write_idx(f, "b-labels-idx1-ubyte", 8, 1, (int[]){2}, zeros, 1);
  refused(images, labels, QB_ERROR_FORMAT, "truncated");

  size_t size;
  const char *zipped = compress_file(f, images, "c-images-idx3-ubyte.gz");
  unsigned char *data = read_whole_file(zipped, &size);
  refused(temp_write(f, "c-images-idx3-ubyte.gz", data, size - 12), NULL, QB_ERROR_FORMAT, "images-idx3");
  free(data);
}

/* --------------------------------------------------------------------------------------------------------- cifar */

static void cifar_records(void **state) {
  const temp_folder *f = *state;
  static unsigned char file[2 * 3073];
  static float sample[3072];
  file[0] = 4;
  file[3073] = 9;
  for (int i = 0; i < 3072; i++)
    file[3074 + i] = (unsigned char)(i * 7);
  qb_dataset *dataset = opened(temp_write(f, "a.bin", file, sizeof file), "raw", NULL, 0, 0);
  qb_shape shape = qb_dataset_shape(dataset);
  assert_true(qb_shape_equal(&shape, &QB_SHAPE(3, 32, 32)));
  assert_int_equal(qb_dataset_label(dataset, 0), 4);
  assert_int_equal(qb_dataset_label(dataset, 1), 9);
  assert_int_equal(qb_dataset_read(dataset, 1, sample, NULL), QB_OK);
  for (int i = 0; i < 3072; i++)
    assert_true(sample[i] == (float)(unsigned char)(i * 7));
  qb_dataset_free(dataset);

  refused(temp_write(f, "a.bin", file, sizeof file - 1), NULL, QB_ERROR_FORMAT, "truncated");
  refused(temp_write(f, "a.bin", file, 0), NULL, QB_ERROR_FORMAT, "whole number");
  file[3073] = 10;
  refused(temp_write(f, "a.bin", file, sizeof file), NULL, QB_ERROR_FORMAT, "record 1 has class 10");
}

/* A file that shrinks after it was opened is an error of the read, not a crash. */
static void a_file_cut_while_open_is_an_error(void **state) {
  const temp_folder *f = *state;
  static unsigned char file[2 * 3073];
  static float sample[3072];
  qb_error error = {0};
  const char *path = temp_write(f, "a.bin", file, sizeof file);
  qb_dataset *dataset = opened(path, "raw", NULL, 0, 0);
  assert_int_equal(truncate(path, 3073), 0);
  assert_int_equal(qb_dataset_read(dataset, 0, sample, &error), QB_OK);
  assert_int_equal(qb_dataset_read(dataset, 1, sample, &error), QB_ERROR_FORMAT);
  assert_non_null(strstr(error.message, "a.bin"));
  qb_dataset_free(dataset);
}

/* -------------------------------------------------------------------------------------------------------- hashes */

static void hash_of(const char *path, const char *preprocess, int64_t index, char text[QB_HASH_TEXT]) {
  qb_hash hash;
  qb_dataset *dataset = opened(path, preprocess, NULL, 0, 0);
  assert_int_equal(qb_dataset_hash(dataset, index, &hash, NULL), QB_OK);
  qb_hash_print(&hash, text);
  qb_dataset_free(dataset);
}

static void equal_images_hash_equally(void **state) {
  const temp_folder *f = *state;
  char a[QB_HASH_TEXT], b[QB_HASH_TEXT], c[QB_HASH_TEXT];
  hash_of(FIXTURES "rgb.png", "unit", 0, a);
  hash_of(FIXTURES "interlaced.png", "unit", 0, b);
  hash_of(FIXTURES "420.jpg", "unit", 0, c);
  assert_string_equal(a, b);
  assert_string_not_equal(a, c);

  const float zeros[2] = {0.0f, 1.0f}, negative[2] = {-0.0f, 1.0f};
  hash_of(write_npy(f, "a.npy", "'<f4'", "False", "(1, 2)", zeros, 8), "raw", 0, a);
  hash_of(write_npy(f, "b.npy", "'<f4'", "False", "(1, 2)", negative, 8), "raw", 0, b);
  assert_string_equal(a, b);
}

/* ------------------------------------------------------------------------------------------------------- threads */

static void threads_read_what_one_thread_reads(void **state) {
  const temp_folder *f = *state;
  enum { ROUNDS = 12, IMAGES = 6, ELEMENTS = 3 * 12 * 12 };
  static float alone[IMAGES][ELEMENTS], together[ROUNDS * IMAGES][ELEMENTS];
  static const char *const names[IMAGES] = {"420.jpg", "rgb.png", "grey.jpg", "tall.jpg", "palette.png", "rgb16.png"};
  int failures = 0;
  for (int i = 0; i < IMAGES; i++)
    copy_fixture(f, names[i], names[i]);
  write_text(f, "labels.txt", "420.jpg 0\nrgb.png 1\ngrey.jpg 2\ntall.jpg 3\npalette.png 4\nrgb16.png 5\n");
  qb_dataset *dataset = opened(f->path, "resize=14:crop=12:scale=255:mean=0.5:std=0.2", NULL, 0, 0);
  for (int i = 0; i < IMAGES; i++)
    assert_int_equal(qb_dataset_read(dataset, i, alone[i], NULL), QB_OK);
#pragma omp parallel for num_threads(4) reduction(+ : failures)
  for (int i = 0; i < ROUNDS * IMAGES; i++)
    failures += qb_dataset_read(dataset, i % IMAGES, together[i], NULL) != QB_OK;
  assert_int_equal(failures, 0);
  for (int i = 0; i < ROUNDS * IMAGES; i++)
    assert_memory_equal(together[i], alone[i % IMAGES], sizeof alone[0]);
  qb_dataset_free(dataset);
}

/* -------------------------------------------------------------------------------------------------------- memory */

typedef struct open_work {
  const char *path;
  qb_dataset_settings settings;
} open_work;

static qb_status open_and_hash(void *context, qb_error *error) {
  const open_work *work = context;
  qb_dataset *dataset;
  qb_hash hash;
  qb_status status = qb_dataset_open(work->path, &work->settings, &dataset, error);
  if (status == QB_OK)
    status = qb_dataset_hash(dataset, 0, &hash, error);
  qb_dataset_free(dataset);
  return status;
}

static void every_failed_allocation_is_reported(void **state) {
  const temp_folder *f = *state;
  const unsigned char bytes[16] = {0};
  copy_fixture(f, "rgb.png", "classes/a/1.png");
  copy_fixture(f, "rgb.png", "list/1.png");
  write_text(f, "list/labels.txt", "1.png 3\n");
  write_npy(f, "x.npy", "'|u1'", "False", "(2, 1, 2, 2)", bytes, 8);
  write_npy(f, "x_labels.npy", "'|u1'", "False", "(2,)", bytes, 2);
  write_idx(f, "t-images-idx3-ubyte", 8, 3, (int[]){2, 2, 2}, bytes, 8);
  write_idx(f, "t-labels-idx1-ubyte", 8, 1, (int[]){2}, bytes, 2);
  static const char *const names[] = {"classes", "list", "x.npy", "t-images-idx3-ubyte"};
  for (int i = 0; i < 4; i++) {
    char path[512];
    open_work work = {.path = path};
    snprintf(path, sizeof path, "%s/%s", f->path, names[i]);
    assert_int_equal(qb_preprocess_parse("resize=3:scale=255", &work.settings.preprocess, NULL), QB_OK);
    assert_true(fault_every_allocation(open_and_hash, &work, 100) >= 8);
  }
}

#define WITH_FOLDER(test) cmocka_unit_test_setup_teardown(test, temp_folder_create, temp_folder_remove)

int main(void) {
  const struct CMUnitTest tests[] = {
      WITH_FOLDER(labels_txt_gives_order_and_classes),
      WITH_FOLDER(bad_label_lists_are_refused),
      WITH_FOLDER(class_folders_are_classes_by_name),
      WITH_FOLDER(unlabelled_folders_and_single_files),
      WITH_FOLDER(sizes_that_differ_name_the_file),
      WITH_FOLDER(skip_and_samples_limit),
      WITH_FOLDER(npy_types_and_labels),
      WITH_FOLDER(npy_later_versions_have_long_headers),
      WITH_FOLDER(bad_npy_files_are_refused),
      WITH_FOLDER(bad_npy_labels_are_refused),
      WITH_FOLDER(idx_plain_and_compressed),
      WITH_FOLDER(a_folder_of_idx_files_prefers_the_test_images),
      WITH_FOLDER(bad_idx_files_are_refused),
      WITH_FOLDER(cifar_records),
      WITH_FOLDER(a_file_cut_while_open_is_an_error),
      WITH_FOLDER(equal_images_hash_equally),
      WITH_FOLDER(threads_read_what_one_thread_reads),
      WITH_FOLDER(every_failed_allocation_is_reported),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
