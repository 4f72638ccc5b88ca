/* A bug to be found, so that it is known that bugs are found: behind three comparisons, one byte too many is read. */
#include <stddef.h>

int planted(const unsigned char *at, size_t size) {
    if (size >= 3)
        if (at[0] == 'b')
            if (at[1] == 'u')
                if (at[2] == 'g') return at[size];
    return 0;
}
