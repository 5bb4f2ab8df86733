/* Output files: whole or not at all, on a good disk, a full one, and without memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "support/faults.h"

enum { PATH_LENGTH = 256 };

typedef struct fixture {
  char folder[64], path[PATH_LENGTH];
} fixture;

static int make_folder(void **state) {
  fixture *f = calloc(1, sizeof *f);
  if (f == NULL)
    return -1;
  strcpy(f->folder, "/tmp/qbound-test-XXXXXX");
  if (mkdtemp(f->folder) == NULL)
    return -1;
  snprintf(f->path, sizeof f->path, "%s/out.bin", f->folder);
  *state = f;
  return 0;
}

/* Fails when a test leaves any file behind: rmdir wants an empty folder. */
static int remove_folder(void **state) {
  fixture *f = *state;
  unlink(f->path);
  int result = rmdir(f->folder);
  free(f);
  return result;
}

static long size_of(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 ? (long)info.st_size : -1;
}

static void commit_makes_the_file_appear(void **state) {
  const fixture *f = *state;
  qb_output_file file;
  qb_error error;
  assert_int_equal(qb_output_open(&file, f->path, &error), QB_OK);
  fputs("12345", file.stream);
  assert_int_equal(size_of(f->path), -1);
  assert_int_equal(qb_output_close(&file, &error), QB_OK);
  assert_int_equal(size_of(f->path), -1);
  assert_int_equal(size_of(file.temporary_path), 5);
  assert_int_equal(qb_output_commit(&file, &error), QB_OK);
  assert_int_equal(size_of(f->path), 5);
}

static void discard_keeps_the_old_file(void **state) {
  const fixture *f = *state;
  qb_output_file file;
  assert_int_equal(qb_output_open(&file, f->path, NULL), QB_OK);
  fputs("old", file.stream);
  assert_int_equal(qb_output_commit(&file, NULL), QB_OK);
  assert_int_equal(qb_output_open(&file, f->path, NULL), QB_OK);
  fputs("new and longer", file.stream);
  qb_output_discard(&file);
  assert_int_equal(size_of(f->path), 3);
  qb_output_discard(&file);
}

static void impossible_paths_name_the_path(void **state) {
  const fixture *f = *state;
  char path[PATH_LENGTH];
  qb_output_file file;
  qb_error error;
  snprintf(path, sizeof path, "%s/missing/out.bin", f->folder);
  assert_int_equal(qb_output_open(&file, path, &error), QB_ERROR_IO);
  assert_non_null(strstr(error.message, path));
  assert_non_null(strstr(error.message, "No such file"));

  assert_int_equal(qb_output_open(&file, f->folder, &error), QB_OK); /* a folder: only the rename can tell */
  assert_int_equal(qb_output_commit(&file, &error), QB_ERROR_IO);
  assert_non_null(strstr(error.message, f->folder));
}

static void a_full_disk_is_an_error_and_leaves_nothing(void **state) {
  const fixture *f = *state;
  qb_output_file file;
  qb_error error;
  FILE *full = fault_full_disk();
  if (full == NULL) {
    print_message("this system has no /dev/full\n");
    skip();
  }
  assert_int_equal(qb_output_open(&file, f->path, &error), QB_OK);
  fclose(file.stream);
  file.stream = full;
  for (int i = 0; i < 100000; i++)
    fputs("more than one buffer", file.stream);
  assert_int_equal(qb_output_commit(&file, &error), QB_ERROR_IO);
  assert_non_null(strstr(error.message, f->path));
  assert_non_null(strstr(error.message, "No space left"));
  assert_int_equal(size_of(f->path), -1);
}

static qb_status write_once(void *context, qb_error *error) {
  qb_output_file file;
  qb_status status = qb_output_open(&file, context, error);
  return status == QB_OK ? qb_output_commit(&file, error) : status;
}

static void failed_allocations_are_errors(void **state) {
  fixture *f = *state;
  assert_int_equal(fault_every_allocation(write_once, f->path, 10), 2);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(commit_makes_the_file_appear, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(discard_keeps_the_old_file, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(impossible_paths_name_the_path, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(a_full_disk_is_an_error_and_leaves_nothing, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(failed_allocations_are_errors, make_folder, remove_folder),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
