/* Where the large test data is; see test_data.h. */
#include "support/test_data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { PATHS = 64, PATH_LENGTH = 1024 };

const char *test_data_or_null(const char *name) {
  static char paths[PATHS][PATH_LENGTH];
  static int count;
  const char *folder = getenv("QBOUND_DATA");
  char path[PATH_LENGTH];
  if (folder == NULL || folder[0] == '\0')
    folder = QB_SOURCE_DIR "/../shared/data";
  snprintf(path, sizeof path, "%s/%s", folder, name);
  if (access(path, R_OK) != 0)
    return NULL;
  for (int i = 0; i < count; i++)
    if (strcmp(paths[i], path) == 0)
      return paths[i];
  assert_true(count < PATHS);
  return memcpy(paths[count++], path, sizeof path);
}

const char *test_data(const char *name) {
  const char *path = test_data_or_null(name);
  if (path == NULL) {
    print_message("%s is not there (set QBOUND_DATA to the folder of the test data)\n", name);
    skip();
  }
  return path;
}
