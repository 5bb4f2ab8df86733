/* SHA-256 against the vectors of FIPS 180-4, of bytes and of files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/hash.h"

static void assert_digest(const qb_hash *hash, const char *expected) {
  char text[QB_HASH_TEXT];
  assert_string_equal(qb_hash_print(hash, text), expected);
}

static void published_vectors(void **state) {
  (void)state;
  qb_hash hash;
  assert_int_equal(qb_hash_bytes("", 0, &hash, NULL), QB_OK);
  assert_digest(&hash, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  assert_int_equal(qb_hash_bytes("abc", 3, &hash, NULL), QB_OK);
  assert_digest(&hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void a_file_of_a_million_letters(void **state) {
  (void)state;
  char path[] = "/tmp/qbound-hash-XXXXXX", letters[1000];
  int descriptor = mkstemp(path);
  assert_true(descriptor >= 0);
  memset(letters, 'a', sizeof letters);
  for (int i = 0; i < 1000; i++)
    assert_int_equal(write(descriptor, letters, sizeof letters), sizeof letters);
  close(descriptor);
  qb_hash hash;
  qb_error error;
  assert_int_equal(qb_hash_file(path, &hash, &error), QB_OK);
  unlink(path);
  assert_digest(&hash, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void unreadable_files_are_named(void **state) {
  (void)state;
  qb_hash hash;
  qb_error error;
  assert_int_equal(qb_hash_file("/nowhere/net.onnx", &hash, &error), QB_ERROR_IO);
  assert_non_null(strstr(error.message, "/nowhere/net.onnx"));
  assert_int_equal(qb_hash_file("/tmp", &hash, &error), QB_ERROR_IO);
  assert_non_null(strstr(error.message, "/tmp"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(published_vectors),
      cmocka_unit_test(a_file_of_a_million_letters),
      cmocka_unit_test(unreadable_files_are_named),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
