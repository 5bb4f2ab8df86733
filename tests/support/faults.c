/* Faults on purpose; see faults.h. */
#include "support/faults.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"

long fault_every_allocation(fault_work work, void *context, long limit) {
  long live = qb_alloc_live();
  for (long n = 0; n <= limit; n++) {
    qb_error error = {.status = QB_OK};
    qb_alloc_fail_after(n);
    qb_status status = work(context, &error);
    qb_alloc_fail_after(-1);
    if (qb_alloc_live() != live)
      fail_msg("%ld blocks are left behind when allocation %ld fails", qb_alloc_live() - live, n);
    if (status == QB_OK) {
      if (n == 0)
        fail_msg("the work allocates nothing: there is no fault to test");
      return n;
    }
    if (status != QB_ERROR_MEMORY)
      fail_msg("allocation %ld fails with status %s: %s", n, qb_status_name(status), error.message);
    assert_int_equal(error.status, QB_ERROR_MEMORY);
    assert_true(error.message[0] != '\0');
  }
  fail_msg("more than %ld allocations", limit);
  return limit;
}

FILE *fault_full_disk(void) { return fopen("/dev/full", "wb"); }
