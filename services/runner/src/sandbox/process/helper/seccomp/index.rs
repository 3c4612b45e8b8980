//! An index in front of a filter. A filter is a list that is searched from its beginning, and when one is installed the
//! kernel tries it with every system call that there is: with some 350 calls in the list that took most of a
//! millisecond of each run. The calls that are allowed whatever their arguments are found by halving instead.

use std::collections::BTreeSet;

use seccompiler::{BpfProgram, TargetArch, sock_filter};

/// Where a filter finds the number of the call, and the architecture that it was made for.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// Where it finds the first argument of `socket`, of which the kernel looks at this half.
const FAMILY: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_NOT_LESS: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// Where to go for a call, while the distance to there is not known yet.
const ELSEWHERE: u32 = u32::MAX;

fn number_of(arch: TargetArch) -> u32 {
    match arch {
        TargetArch::x86_64 => 0xc000_003e,
        TargetArch::aarch64 => 0xc000_00b7,
        TargetArch::riscv64 => 0xc000_00f3,
    }
}

/// A filter that has it told when a socket is asked for that is not a local one, and allows everything. What comes by the
/// numbers of another architecture is told of, whatever it is.
pub(super) fn tell_of_sockets(arch: TargetArch) -> BpfProgram {
    let socket = u32::try_from(libc::SYS_socket).unwrap_or(u32::MAX);
    vec![
        instruction(LOAD, 0, 0, ARCHITECTURE),
        instruction(IF_EQUAL, 0, 5, number_of(arch)),
        instruction(LOAD, 0, 0, NUMBER),
        instruction(IF_EQUAL, 0, 2, socket),
        instruction(LOAD, 0, 0, FAMILY),
        instruction(IF_EQUAL, 0, 1, libc::AF_UNIX.unsigned_abs()),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
    ]
}

/// A filter that allows these calls, and does with all others what `rest` does. `None`: there are too many.
pub(super) fn in_front(allowed: &BTreeSet<u32>, arch: TargetArch, rest: BpfProgram) -> Option<BpfProgram> {
    let arch = number_of(arch);
    // Where what is allowed begins and ends, in turns.
    let mut edges = Vec::new();
    for number in allowed {
        if edges.last() == Some(number) {
            edges.pop();
        } else {
            edges.push(*number);
        }
        edges.push(number + 1);
    }
    let mut program = vec![
        instruction(LOAD, 0, 0, ARCHITECTURE),
        instruction(IF_EQUAL, 1, 0, arch),
        instruction(JUMP, 0, 0, ELSEWHERE),
        instruction(LOAD, 0, 0, NUMBER),
    ];
    program.extend(search(&edges, 0)?);
    let length = u32::try_from(program.len()).ok()?;
    for (place, one) in (0..length).zip(&mut program) {
        if u32::from(one.code) == JUMP && one.k == ELSEWHERE {
            one.k = length - place - 1;
        }
    }
    program.extend(rest);
    (program.len() <= libc::BPF_MAXINSNS as usize).then_some(program)
}

/// Finds a number among edges, before which there are so many others.
fn search(edges: &[u32], before: usize) -> Option<BpfProgram> {
    if edges.is_empty() {
        let allowed = instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW);
        return Some(vec![if before % 2 == 1 { allowed } else { instruction(JUMP, 0, 0, ELSEWHERE) }]);
    }
    let middle = edges.len() / 2;
    let below = search(&edges[..middle], before)?;
    let above = search(&edges[middle + 1..], before + middle + 1)?;
    let mut program = vec![instruction(IF_NOT_LESS, u8::try_from(below.len()).ok()?, 0, edges[middle])];
    program.extend(below);
    program.extend(above);
    Some(program)
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    // All codes are below 256.
    sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a filter says to a call, and after how many instructions. As much of the kernel's machine as filters here use.
    pub(in super::super) fn ask(program: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
        let load = |offset: u32| match offset {
            NUMBER => number,
            ARCHITECTURE => arch,
            16.. => {
                let argument = arguments[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
            _ => panic!("nothing is at {offset}"),
        };
        let (mut accumulator, mut place, mut steps) = (0, 0, 0);
        loop {
            let one = &program[place];
            steps += 1;
            let jump = |condition: bool| usize::from(if condition { one.jt } else { one.jf });
            place += 1 + match u32::from(one.code) {
                LOAD => {
                    accumulator = load(one.k);
                    0
                }
                JUMP => one.k as usize,
                IF_EQUAL => jump(accumulator == one.k),
                IF_NOT_LESS => jump(accumulator >= one.k),
                RETURN => return (one.k, steps),
                code if code == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => jump(accumulator > one.k),
                code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => {
                    accumulator &= one.k;
                    0
                }
                code => panic!("no instruction {code}"),
            };
        }
    }

    #[test]
    fn what_is_allowed_is_found_and_the_rest_is_left_to_the_rest() {
        let allowed: BTreeSet<u32> = [0, 1, 2, 5, 7, 8, 100, 424].into();
        let rest = vec![instruction(RETURN, 0, 0, 7)];
        let program = in_front(&allowed, TargetArch::x86_64, rest).unwrap();
        for number in (0..600).chain([0x4000_0000, 0x4000_0001, u32::MAX]) {
            let expected = if allowed.contains(&number) { libc::SECCOMP_RET_ALLOW } else { 7 };
            let (answer, steps) = ask(&program, 0xc000_003e, number, [0; 6]);
            assert_eq!(answer, expected, "{number}");
            assert!(steps <= 10, "{number}: {steps}");
            assert_eq!(ask(&program, 0x4000_0003, number, [0; 6]).0, 7, "of another architecture");
        }
        let none = in_front(&BTreeSet::new(), TargetArch::x86_64, vec![instruction(RETURN, 0, 0, 7)]).unwrap();
        assert_eq!(ask(&none, 0xc000_003e, 0, [0; 6]).0, 7);
    }
}
