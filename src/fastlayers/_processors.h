/* Functions that are compiled for several kinds of processor. */
#ifndef FASTLAYERS_PROCESSORS_H
#define FASTLAYERS_PROCESSORS_H

#include <stdint.h>  /* or any other of the C library's: they say whether it is glibc */

/* Before a function: one of it for each of these targets, the last of them "default"; which one is chosen when the module
 * is loaded. It takes ifuncs, so ELF with glibc; sanitizers cannot instrument what runs that early. Elsewhere (aarch64,
 * macOS) there is one function, and the baseline has 128-bit vectors. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define TARGET_CLONES(...) __attribute__((target_clones(__VA_ARGS__)))
#endif
#endif
#ifndef TARGET_CLONES
#define TARGET_CLONES(...)
#endif

/* What such a function calls has to be part of it. */
#define INLINE static inline __attribute__((always_inline))

#endif
