/* SPDX-License-Identifier: Apache-2.0 */
/* xsave - preloaded into User-Mode Linux, it lets it run on newer processors.
 *
 * UML sets a process's floating-point state from a buffer whose size it was
 * compiled with; the kernel takes all of the processor's state or nothing
 * (EFAULT). Where the kernel wants more, this gives it UML's part and, for the
 * rest, what the process has.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define SETREGSET 0x4205
#define GETREGSET 0x4204
#define X86_XSTATE 0x202L

/* PTRACE_PEEKTEXT, PEEKDATA and PEEKUSER: libc's give what they find. */
#define LAST_PEEK 3

/* Where the state says which of its components are not in their initial
 * configuration, and the components that a buffer of UML's size can hold:
 * x87, SSE, AVX, MPX, AVX-512 (bits 0 to 7).
 */
#define COMPONENTS_AT 512
#define UML_COMPONENTS 0xffUL

static long
set_larger(int pid, const struct iovec *given)
{
    static _Thread_local uint8_t state[1 << 16];
    struct iovec all = { state, sizeof state };
    uint64_t had, has;

    if (syscall(SYS_ptrace, GETREGSET, pid, X86_XSTATE, &all) < 0)
        return -1;
    if (given->iov_len >= all.iov_len
        || given->iov_len < COMPONENTS_AT + sizeof had) {
        errno = EFAULT;
        return -1;
    }
    memcpy(&had, state + COMPONENTS_AT, sizeof had);
    memcpy(state, given->iov_base, given->iov_len);
    memcpy(&has, state + COMPONENTS_AT, sizeof has);
    has = (has & UML_COMPONENTS) | (had & ~UML_COMPONENTS);
    memcpy(state + COMPONENTS_AT, &has, sizeof has);
    return syscall(SYS_ptrace, SETREGSET, pid, X86_XSTATE, &all);
}

long
ptrace(int request, ...)
{
    va_list list;

    va_start(list, request);
    int pid = va_arg(list, int);
    void *address = va_arg(list, void *);
    void *data = va_arg(list, void *);
    va_end(list);

    if (request > 0 && request <= LAST_PEEK) {
        long word = 0;
        long status = syscall(SYS_ptrace, request, pid, address, &word);

        if (status >= 0)
            errno = 0;
        return status < 0 ? status : word;
    }
    long status = syscall(SYS_ptrace, request, pid, address, data);

    if (status < 0 && errno == EFAULT && request == SETREGSET
        && (long)address == X86_XSTATE)
        status = set_larger(pid, data);
    return status;
}
