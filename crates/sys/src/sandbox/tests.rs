//! What the filters say of each call: read as the kernel reads them, since a call that fails from inside may have failed
//! for another reason.

use seccompiler::sock_filter;

use super::*;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// What a filter says of a call (`struct seccomp_data` of seccomp(2)).
fn says(program: &[sock_filter], call: i64, arguments: [u64; 3]) -> u32 {
    let mut data = Vec::from((call as u32).to_ne_bytes());
    data.extend(ARCH.to_ne_bytes());
    let [one, two, three] = arguments;
    [0, one, two, three, 0, 0, 0].iter().for_each(|word| data.extend(word.to_ne_bytes()));
    let (mut at, mut accumulator) = (0, 0_u32);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let (code, place) = (u32::from(code), k as usize);
        let mut jump = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code & 0x07 {
            libc::BPF_LD => {
                accumulator = u32::from_ne_bytes(data[place..place + 4].try_into().unwrap());
            }
            libc::BPF_ALU if code & 0xf0 == libc::BPF_AND => accumulator &= k,
            libc::BPF_JMP => match code & 0xf0 {
                libc::BPF_JA => at += place,
                libc::BPF_JEQ => jump(accumulator == k),
                libc::BPF_JGT => jump(accumulator > k),
                libc::BPF_JGE => jump(accumulator >= k),
                libc::BPF_JSET => jump(accumulator & k != 0),
                other => panic!("jump {other:#x}"),
            },
            libc::BPF_RET => return k,
            other => panic!("statement {other:#x}"),
        }
    }
}

const ALLOWED: u32 = 0x7fff_0000;

/// With which error a call is refused; nothing where it is allowed.
fn refused(sockets: Sockets, call: i64, arguments: [u64; 3]) -> Option<i32> {
    let programs = filters(&Rules { sockets, ..Rules::default() }).unwrap();
    let strictest = programs.iter().map(|program| says(program, call, arguments)).min().unwrap();
    (strictest != ALLOWED).then(|| {
        assert_eq!(strictest & 0xffff_0000, 0x0005_0000, "{strictest:#x} is no error");
        (strictest & 0xffff) as i32
    })
}

#[test]
fn programs_other_processes_and_the_kernels_large_doors_are_refused() {
    for call in [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_memfd_create,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_bpf,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_open_by_handle_at,
        libc::SYS_finit_module,
    ] {
        for arguments in [[0; 3], [u64::MAX; 3]] {
            assert_eq!(refused(Sockets::None, call, arguments), Some(libc::EPERM), "{call}");
            assert_eq!(refused(Sockets::Any, call, arguments), Some(libc::EPERM), "{call}");
        }
    }
    // What a server does all day.
    for call in [libc::SYS_read, libc::SYS_writev, libc::SYS_accept4, libc::SYS_connect] {
        assert_eq!(refused(Sockets::None, call, [3, 0, 0]), None, "{call}");
    }
}

#[test]
fn memory_that_is_run_and_new_namespaces_are_refused_and_threads_are_not() {
    let flags = |flags: i32| u64::from(flags as u32);
    let run = flags(libc::PROT_READ | libc::PROT_EXEC);
    for call in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        assert_eq!(refused(Sockets::None, call, [0, 4096, run]), Some(libc::EPERM));
        assert_eq!(refused(Sockets::None, call, [0, 4096, flags(libc::PROT_WRITE)]), None);
    }
    let thread = flags(libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND);
    assert_eq!(refused(Sockets::None, libc::SYS_clone, [thread, 0, 0]), None);
    let user = thread | flags(libc::CLONE_NEWUSER);
    assert_eq!(refused(Sockets::None, libc::SYS_clone, [user, 0, 0]), Some(libc::EPERM));
    assert_eq!(refused(Sockets::None, libc::SYS_clone3, [0; 3]), Some(libc::ENOSYS));
}

#[test]
fn of_sockets_only_tcp_is_left_and_unix_streams_where_they_are_let() {
    let below = || Sockets::Below(PathBuf::from("/sockets"));
    let asked = |family: i32, kind: i32, protocol: i32| {
        [family, kind, protocol].map(|word| u64::from(word as u32))
    };
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    for sockets in [Sockets::None, below(), Sockets::Any] {
        let refused = |asked| refused(sockets.clone(), libc::SYS_socket, asked);
        for family in [libc::AF_INET, libc::AF_INET6] {
            for protocol in [0, libc::IPPROTO_TCP] {
                assert_eq!(refused(asked(family, libc::SOCK_STREAM | flags, protocol)), None);
            }
            for protocol in [libc::IPPROTO_UDP, libc::IPPROTO_SCTP, 262] {
                let tcp = asked(family, libc::SOCK_STREAM, protocol);
                assert_eq!(refused(tcp), Some(libc::EACCES));
            }
            for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET, 10] {
                let other = asked(family, kind | flags, 0);
                assert_eq!(refused(other), Some(libc::EACCES), "{family} {kind}");
            }
        }
        for family in [libc::AF_NETLINK, libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG] {
            assert_eq!(refused(asked(family, libc::SOCK_STREAM, 0)), Some(libc::EACCES));
        }
        let unix = refused(asked(libc::AF_UNIX, libc::SOCK_STREAM | flags, 0));
        assert_eq!(unix, (sockets == Sockets::None).then_some(libc::EACCES));
        let datagrams = refused(asked(libc::AF_UNIX, libc::SOCK_DGRAM, 0));
        assert_eq!(datagrams, Some(libc::EACCES));
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn no_call_has_a_second_number() {
    for call in [libc::SYS_execve, libc::SYS_socket, libc::SYS_read, 520] {
        let second = call | 0x4000_0000;
        assert_eq!(refused(Sockets::Any, second, [0; 3]), Some(libc::ENOSYS), "{call}");
    }
}
