/* Open addressing over FNV-1a hashes; see names.h. */
#include "onnx/names.h"

#include <string.h>

#include "base/alloc.h"

static uint32_t hash_text(const char *text) {
  uint32_t hash = 2166136261u;
  for (; *text != '\0'; text++)
    hash = (hash ^ (unsigned char)*text) * 16777619u;
  return hash ^ hash >> 15;
}

/* The slot that holds `text`, or the empty one where it belongs. */
static int32_t *find_slot(const qb_names *names, const char *text) {
  uint32_t mask = (uint32_t)names->slot_count - 1u, i = hash_text(text) & mask;
  while (names->slots[i] >= 0 && strcmp(names->text[names->slots[i]], text) != 0)
    i = (i + 1u) & mask;
  return &names->slots[i];
}

static bool grow_text(qb_names *names) {
  int32_t capacity = names->capacity > 0 ? 2 * names->capacity : 256;
  const char **text = qb_alloc((size_t)capacity, sizeof *text);
  if (text == NULL)
    return false;
  if (names->count > 0)
    memcpy(text, names->text, (size_t)names->count * sizeof *text);
  qb_free(names->text);
  names->text = text;
  names->capacity = capacity;
  return true;
}

static bool grow_slots(qb_names *names) {
  int32_t slot_count = names->slot_count > 0 ? 2 * names->slot_count : 1024;
  int32_t *slots = qb_alloc((size_t)slot_count, sizeof *slots);
  if (slots == NULL)
    return false;
  memset(slots, 0xff, (size_t)slot_count * sizeof *slots); /* every entry -1 */
  qb_free(names->slots);
  names->slots = slots;
  names->slot_count = slot_count;
  for (int32_t i = 0; i < names->count; i++)
    *find_slot(names, names->text[i]) = i;
  return true;
}

void qb_names_free(qb_names *names) {
  qb_free(names->text);
  qb_free(names->slots);
  *names = (qb_names){0};
}

int32_t qb_names_intern(qb_names *names, const char *text) {
  if (names->count == names->capacity && (names->capacity > INT32_MAX / 4 || !grow_text(names)))
    return -1;
  if (2 * names->count >= names->slot_count && !grow_slots(names))
    return -1;
  int32_t *slot = find_slot(names, text);
  if (*slot < 0) {
    names->text[names->count] = text;
    *slot = names->count++;
  }
  return *slot;
}

int32_t qb_names_find(const qb_names *names, const char *text) {
  return names->slot_count == 0 ? -1 : *find_slot(names, text);
}
