/* A folder for the files of one test. */
#ifndef QB_SUPPORT_TEMP_FOLDER_H
#define QB_SUPPORT_TEMP_FOLDER_H

#include <stddef.h>

typedef struct temp_folder {
  char path[64];
} temp_folder;

/* cmocka setup and teardown: *state is a temp_folder; the teardown removes it with everything in it. */
int temp_folder_create(void **state);
int temp_folder_remove(void **state);

/* The path of `name` in the folder. One of eight buffers that take turns. */
const char *temp_path(const temp_folder *folder, const char *name);

/* Writes a file, and the folders that `name` is in; returns its temp_path. Asserts success. */
const char *temp_write(const temp_folder *folder, const char *name, const void *data, size_t size);

/* All bytes of a file from malloc; asserts success. */
unsigned char *read_whole_file(const char *path, size_t *size);

#endif
