/* Counts instructions of an emulated program, for qemu-user: a plugin of API version 1 (qemu 7.2).
 *
 * Every getppid(2) that the program makes is a mark: the number of instructions so far is written to qemu's log (-D).
 * Prototypes are those of qemu's plugin interface; Debian ships no header. One thread is counted exactly.
 */

#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define GETPPID 173 /* of aarch64's system calls */

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
enum inline_op { ADD_U64 };

typedef void (*on_translation)(plugin_id id, struct qemu_plugin_tb *block);
typedef void (*on_system_call)(plugin_id id, unsigned int cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                               uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8);

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, on_translation callback);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id id, on_system_call callback);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *block, enum inline_op op, void *counter,
                                                     uint64_t number);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
extern void qemu_plugin_outs(const char *text);

int qemu_plugin_version = 1;

static uint64_t instructions;

static void count_block(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &instructions, qemu_plugin_tb_n_insns(block));
}

static void mark(plugin_id id, unsigned int cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                 uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    char line[32];

    (void)id, (void)cpu, (void)a1, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number == GETPPID) {
        snprintf(line, sizeof line, "%" PRIu64 "\n", instructions);
        qemu_plugin_outs(line);
    }
}

int qemu_plugin_install(plugin_id id, const void *information, int argc, char **argv)
{
    (void)information, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, count_block);
    qemu_plugin_register_vcpu_syscall_cb(id, mark);
    return 0;
}
