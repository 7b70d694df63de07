package worker

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// refusedCalls fail with EPERM in a worker. It serves a volume with reads and
// writes below one directory and on inherited descriptors, so whatever starts
// programs, looks into other processes, changes the machine or opens a new way
// out is refused. Names a machine's architecture does not have are left out.
var refusedCalls = []string{
	// other programs and processes
	"execve", "execveat", "fork", "vfork", "kill", "tkill", "pidfd_open", "pidfd_getfd",
	"pidfd_send_signal", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise",
	"process_mrelease", "kcmp", "setns", "unshare", "personality",
	// file systems
	"mount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount", "fspick",
	"move_mount", "open_tree", "mount_setattr", "quotactl", "quotactl_fd", "swapon", "swapoff",
	"open_by_handle_at", "name_to_handle_at", "mknod", "mknodat", "acct", "fanotify_init",
	"fanotify_mark", "inotify_init", "inotify_init1", "inotify_add_watch",
	// the kernel
	"kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "bpf",
	"perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
	"reboot", "syslog", "iopl", "ioperm", "vhangup", "lookup_dcookie", "uselib", "_sysctl",
	"modify_ldt", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname",
	"setdomainname",
	// keys and shared memory of others
	"add_key", "request_key", "keyctl", "shmget", "shmat", "shmctl", "msgget", "msgsnd",
	"msgrcv", "semget", "semop", "mq_open",
	// other users
	"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups",
	"setfsuid", "setfsgid", "capset",
	// the network, whatever the family
	"listen", "bind", "connect", "accept", "accept4",
}

// filterCalls installs the system call filter on all threads of the process.
func filterCalls() error {
	info, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	refused := slices.DeleteFunc(slices.Clone(refusedCalls), func(name string) bool {
		_, known := info.SyscallNames[name]
		return !known
	})
	policy := seccomp.Policy{
		DefaultAction: seccomp.ActionAllow,
		Syscalls: []seccomp.SyscallGroup{
			{Names: refused, Action: seccomp.ActionErrno},
			{Action: seccomp.ActionErrno, NamesWithCondtions: []seccomp.NameWithConditions{
				// Threads, but no processes.
				{Name: "clone", Conditions: []seccomp.Condition{
					{Argument: 0, Operation: seccomp.BitsNotSet, Value: unix.CLONE_THREAD}}},
				{Name: "socket", Conditions: []seccomp.Condition{
					{Argument: 0, Operation: seccomp.NotEqual, Value: unix.AF_UNIX}}},
			}},
			// Its flags are in memory, which a filter cannot see. The C library
			// falls back to clone.
			{Names: []string{"clone3"}, Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS)},
		},
	}
	if err := refuseForeignCalls(); err != nil {
		return err
	}
	if err := seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: policy,
	}); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}

// refuseForeignCalls refuses the system calls of other architectures' ABIs
// (32-bit calls on a 64-bit kernel), whose numbers mean other calls: the
// library's filter lets them pass.
func refuseForeignCalls() error {
	native := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if native == 0 {
		return nil
	}
	const archOffset = 4 // in struct seccomp_data
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: archOffset},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: native},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}
