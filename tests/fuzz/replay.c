/* Runs a fuzz target on every file of the folders that are given: the committed corpora as ordinary tests. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path) {
  FILE *file = fopen(path, "rb");
  if (file == NULL)
    return 1;
  fseek(file, 0, SEEK_END);
  long size = ftell(file);
  rewind(file);
  uint8_t *data = malloc(size > 0 ? (size_t)size : 1);
  int failed = data == NULL || size < 0 || fread(data, 1, (size_t)size, file) != (size_t)size;
  fclose(file);
  if (!failed)
    LLVMFuzzerTestOneInput(data, (size_t)size);
  free(data);
  return failed;
}

static int replay_folder(const char *folder, int *replayed) {
  DIR *directory = opendir(folder);
  int failures = directory == NULL;
  for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;) {
    char path[1024];
    if (entry->d_name[0] == '.')
      continue;
    snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    failures += replay_file(path);
    ++*replayed;
  }
  if (directory != NULL)
    closedir(directory);
  return failures;
}

int main(int count, char **arguments) {
  int failures = 0, replayed = 0;
  for (int i = 1; i < count; i++)
    failures += replay_folder(arguments[i], &replayed);
  printf("%d inputs replayed, %d unreadable\n", replayed, failures);
  return failures > 0 || replayed == 0;
}
