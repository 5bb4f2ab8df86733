/* Inner loops that are built for several processors; the best of them is taken when the program starts. Sums may round
 * differently on different processors, as OpenBLAS's do, but not with the number of threads. */
#ifndef QB_BASE_WIDE_H
#define QB_BASE_WIDE_H

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__SANITIZE_ADDRESS__)
#define QB_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define QB_WIDE
#endif

#endif
