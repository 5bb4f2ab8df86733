/* Folders for tests; see temp_folder.h. */
#define _XOPEN_SOURCE 700
#include "support/temp_folder.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

enum { PATHS = 8, PATH_BYTES = 512 };

int temp_folder_create(void **state) {
  temp_folder *folder = calloc(1, sizeof *folder);
  if (folder == NULL)
    return -1;
  strcpy(folder->path, "/tmp/qbound-test-XXXXXX");
  *state = folder;
  return mkdtemp(folder->path) == NULL ? -1 : 0;
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *position) {
  (void)status;
  (void)type;
  (void)position;
  return remove(path);
}

int temp_folder_remove(void **state) {
  temp_folder *folder = *state;
  int result = nftw(folder->path, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
  free(folder);
  return result;
}

const char *temp_path(const temp_folder *folder, const char *name) {
  static char paths[PATHS][PATH_BYTES];
  static int next;
  char *path = paths[next++ % PATHS];
  snprintf(path, PATH_BYTES, "%s/%s", folder->path, name);
  return path;
}

static void make_parents(const temp_folder *folder, char *path) {
  for (char *slash = path + strlen(folder->path) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
    *slash = '\0';
    mkdir(path, 0700);
    *slash = '/';
  }
}

const char *temp_write(const temp_folder *folder, const char *name, const void *data, size_t size) {
  const char *path = temp_path(folder, name);
  char copy[PATH_BYTES];
  strcpy(copy, path);
  make_parents(folder, copy);
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(data, 1, size, file), size);
  assert_int_equal(fclose(file), 0);
  return path;
}

unsigned char *read_whole_file(const char *path, size_t *size) {
  struct stat status;
  assert_int_equal(stat(path, &status), 0);
  FILE *file = fopen(path, "rb");
  assert_non_null(file);
  unsigned char *data = malloc((size_t)status.st_size + 1);
  assert_non_null(data);
  *size = fread(data, 1, (size_t)status.st_size, file);
  fclose(file);
  assert_int_equal(*size, status.st_size);
  return data;
}
