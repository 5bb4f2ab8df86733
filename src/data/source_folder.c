/* Folders: images listed in labels.txt, class folders, unlabelled images, or MNIST idx files. */
#include "data/source.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "data/bytes.h"

enum { MAX_LIST_BYTES = 1 << 28 };

/* ------------------------------------------------------------------------------------------------- growing lists */

/* Appends an unlabelled image whose name is its path. */
static qb_status append_image(qb_image_list *list, const char *path, qb_error *error) {
  if (list->count == list->capacity) {
    int64_t capacity = list->capacity > 0 ? 2 * list->capacity : 256;
    qb_listed_image *grown = qb_alloc((size_t)capacity, sizeof *grown);
    if (grown == NULL)
      return qb_fail_memory(error, path, (size_t)capacity * sizeof *grown);
    if (list->count > 0)
      memcpy(grown, list->images, (size_t)list->count * sizeof *grown);
    qb_free(list->images);
    list->images = grown;
    list->capacity = capacity;
  }
  list->images[list->count++] = (qb_listed_image){path, path, -1};
  return QB_OK;
}

static qb_status add_image(qb_dataset *dataset, const char *folder, const char *name, int32_t label, qb_error *error) {
  qb_image_list *list = &dataset->list;
  char *path = qb_arena_format(&dataset->arena, "%s/%s", folder, name);
  if (path == NULL)
    return qb_fail_memory(error, folder, strlen(name));
  QB_TRY(append_image(list, path, error));
  size_t root = strlen(dataset->path);
  qb_listed_image *image = &list->images[list->count - 1];
  image->label = label;
  if (strncmp(path, dataset->path, root) == 0 && path[root] == '/')
    image->name = path + root + 1;
  return QB_OK;
}

static int compare_images(const void *a, const void *b) {
  const qb_listed_image *x = a, *y = b;
  return x->label != y->label ? (x->label < y->label ? -1 : 1) : strcmp(x->path, y->path);
}

static void sort_images(qb_image_list *list) {
  if (list->count > 0)
    qsort(list->images, (size_t)list->count, sizeof *list->images, compare_images);
}

/* ---------------------------------------------------------------------------------------------------- labels.txt */

/* A class number at the end of text[0..length), after white space; *name_length is what comes before. */
static bool split_line(const char *text, size_t length, size_t *name_length, int32_t *label) {
  size_t start = length;
  int64_t number = 0;
  while (start > 0 && text[start - 1] >= '0' && text[start - 1] <= '9')
    start--;
  if (start == length || length - start > 9)
    return false;
  for (size_t i = start; i < length; i++)
    number = number * 10 + (text[i] - '0');
  *label = (int32_t)number;
  *name_length = start;
  while (*name_length > 0 && (text[*name_length - 1] == ' ' || text[*name_length - 1] == '\t'))
    (*name_length)--;
  return *name_length > 0 && *name_length < start && memchr(text, '\0', length) == NULL;
}

static size_t trimmed_length(const char *line, size_t length) {
  while (length > 0 && strchr(" \t\r", line[length - 1]) != NULL && line[length - 1] != '\0')
    length--;
  return length;
}

static qb_status parse_list(qb_dataset *dataset, const char *list_path, const char *text, size_t size,
                            qb_error *error) {
  const char *end = text + size;
  for (int64_t number = 1; text < end; number++) {
    const char *newline = memchr(text, '\n', (size_t)(end - text)), *next = newline == NULL ? end : newline + 1;
    size_t length = trimmed_length(text, (size_t)((newline == NULL ? end : newline) - text)), name_length;
    int32_t label;
    if (length > 0) {
      if (!split_line(text, length, &name_length, &label))
        return qb_fail(error, QB_ERROR_FORMAT, "%s: line %lld is not 'file index'", list_path, (long long)number);
      char *name = qb_arena_string(&dataset->arena, text, name_length);
      if (name == NULL)
        return qb_fail_memory(error, list_path, name_length);
      QB_TRY(add_image(dataset, dataset->path, name, label, error));
    }
    text = next;
  }
  if (dataset->list.count == 0)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: lists no images", list_path);
  return QB_OK;
}

static qb_status read_list(qb_dataset *dataset, const char *list_path, qb_error *error) {
  qb_bytes bytes;
  QB_TRY(qb_bytes_read(list_path, MAX_LIST_BYTES, &bytes, error));
  qb_status status = parse_list(dataset, list_path, (const char *)bytes.data, bytes.size, error);
  qb_bytes_free(&bytes);
  return status;
}

/* ------------------------------------------------------------------------------------------------ looking around */

typedef enum entry_kind { ENTRY_OTHER, ENTRY_IMAGE, ENTRY_FOLDER, ENTRY_IDX } entry_kind;

static bool ends_like_image(const char *name) {
  const char *dot = strrchr(name, '.');
  return dot != NULL && (strcasecmp(dot, ".jpeg") == 0 || strcasecmp(dot, ".jpg") == 0 || strcasecmp(dot, ".png") == 0);
}

static entry_kind kind_of(int folder, const char *name) {
  struct stat status;
  if (name[0] == '.' || fstatat(folder, name, &status, 0) != 0)
    return ENTRY_OTHER;
  if (S_ISDIR(status.st_mode))
    return ENTRY_FOLDER;
  if (!S_ISREG(status.st_mode))
    return ENTRY_OTHER;
  if (qb_source_is_idx_name(name) && strstr(name, "images") != NULL)
    return ENTRY_IDX;
  return ends_like_image(name) ? ENTRY_IMAGE : ENTRY_OTHER;
}

typedef struct folder_contents {
  int64_t folders, images;
  const char *idx; /* path of the idx images to use, or NULL */
} folder_contents;

/* Test images come before training images, and then the order of names decides. */
static bool is_better_idx(const char *name, const char *best) {
  bool test = strstr(name, "t10k") != NULL || strstr(name, "test") != NULL;
  bool best_test = strstr(best, "t10k") != NULL || strstr(best, "test") != NULL;
  return test != best_test ? test : strcmp(name, best) < 0;
}

/* Lists images of `folder` with class `label`; counts what else is there when `contents` is not NULL. */
static qb_status list_entries(qb_dataset *dataset, DIR *directory, const char *folder, int32_t label,
                              folder_contents *contents, qb_error *error) {
  const struct dirent *entry;
  const char *best = NULL;
  while ((entry = readdir(directory)) != NULL) {
    entry_kind kind = kind_of(dirfd(directory), entry->d_name);
    if (kind == ENTRY_IMAGE)
      QB_TRY(add_image(dataset, folder, entry->d_name, label, error));
    contents->images += kind == ENTRY_IMAGE;
    contents->folders += kind == ENTRY_FOLDER;
    if (kind == ENTRY_IDX && (best == NULL || is_better_idx(entry->d_name, best))) {
      best = qb_arena_string(&dataset->arena, entry->d_name, strlen(entry->d_name));
      contents->idx = qb_arena_format(&dataset->arena, "%s/%s", folder, entry->d_name);
      if (best == NULL || contents->idx == NULL)
        return qb_fail_memory(error, folder, strlen(entry->d_name));
    }
  }
  return QB_OK;
}

static qb_status list_folder(qb_dataset *dataset, const char *folder, int32_t label, folder_contents *contents,
                             qb_error *error) {
  *contents = (folder_contents){0};
  DIR *directory = opendir(folder);
  if (directory == NULL)
    return qb_fail(error, QB_ERROR_IO, "%s: %s", folder, strerror(errno));
  qb_status status = list_entries(dataset, directory, folder, label, contents, error);
  closedir(directory);
  return status;
}

/* ------------------------------------------------------------------------------------------------- class folders */

static int compare_names(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Fills names with at most `room` folders; fewer when the folder changes meanwhile. */
static int64_t read_class_names(qb_dataset *dataset, DIR *directory, const char **names, int64_t room) {
  const struct dirent *entry;
  int64_t count = 0;
  while (count < room && (entry = readdir(directory)) != NULL)
    if (kind_of(dirfd(directory), entry->d_name) == ENTRY_FOLDER) {
      names[count] = qb_arena_string(&dataset->arena, entry->d_name, strlen(entry->d_name));
      if (names[count++] == NULL)
        return -1;
    }
  return count;
}

static qb_status list_class(qb_dataset *dataset, const char *name, int32_t label, qb_error *error) {
  folder_contents contents;
  char *folder = qb_arena_format(&dataset->arena, "%s/%s", dataset->path, name);
  char *list = qb_arena_format(&dataset->arena, "%s/%s/labels.txt", dataset->path, name);
  if (folder == NULL || list == NULL)
    return qb_fail_memory(error, dataset->path, strlen(name));
  if (access(list, F_OK) == 0)
    return qb_fail(error, QB_ERROR_FORMAT, "%s: has a labels.txt of its own: name this folder, not the one above",
                   folder);
  return list_folder(dataset, folder, label, &contents, error);
}

static qb_status list_classes(qb_dataset *dataset, int64_t room, qb_error *error) {
  DIR *directory = opendir(dataset->path);
  if (directory == NULL)
    return qb_fail(error, QB_ERROR_IO, "%s: %s", dataset->path, strerror(errno));
  const char **names = qb_alloc((size_t)room, sizeof *names);
  int64_t count = names == NULL ? -1 : read_class_names(dataset, directory, names, room);
  qb_status status = count < 0 ? qb_fail_memory(error, dataset->path, (size_t)room * sizeof *names) : QB_OK;
  if (count > 0)
    qsort(names, (size_t)count, sizeof *names, compare_names);
  for (int64_t i = 0; i < count && status == QB_OK; i++)
    status = list_class(dataset, names[i], (int32_t)i, error);
  closedir(directory);
  qb_free(names);
  return status;
}

/* ------------------------------------------------------------------------------------------------------- opening */

static qb_status open_without_list(qb_dataset *dataset, const char *labels, qb_error *error) {
  folder_contents contents;
  QB_TRY(list_folder(dataset, dataset->path, -1, &contents, error));
  if (contents.images > 0 && contents.folders > 0)
    return qb_fail(error, QB_ERROR_FORMAT,
                   "%s: holds both images and folders: add a labels.txt with 'file index' a line, or separate them",
                   dataset->path);
  if (contents.images == 0 && contents.idx != NULL)
    return qb_source_open_idx(dataset, contents.idx, labels, error);
  if (contents.folders > 0)
    QB_TRY(list_classes(dataset, contents.folders, error));
  if (dataset->list.count == 0)
    return qb_fail(error, QB_ERROR_FORMAT,
                   "%s: no JPEG or PNG images: expected images with labels.txt, one folder per class, or idx files",
                   dataset->path);
  sort_images(&dataset->list);
  return QB_OK;
}

qb_status qb_source_open_folder(qb_dataset *dataset, const char *labels, qb_error *error) {
  char *beside = qb_arena_format(&dataset->arena, "%s/labels.txt", dataset->path);
  if (beside == NULL)
    return qb_fail_memory(error, dataset->path, strlen(dataset->path));
  if (access(beside, F_OK) == 0)
    return read_list(dataset, labels == NULL ? beside : labels, error);
  const char *dot = labels == NULL ? NULL : strrchr(labels, '.');
  if (dot != NULL && strcasecmp(dot, ".txt") == 0)
    return read_list(dataset, labels, error);
  return open_without_list(dataset, labels, error);
}

qb_status qb_source_open_image(qb_dataset *dataset, qb_error *error) {
  const char *slash = strrchr(dataset->path, '/');
  QB_TRY(append_image(&dataset->list, dataset->path, error));
  dataset->list.images[0].name = slash == NULL ? dataset->path : slash + 1;
  return QB_OK;
}
