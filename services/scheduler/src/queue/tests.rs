use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn job(id: &str, user: &str, priority: QueuePriority, since: u64) -> Job {
    let size = Size { cpu_millis: 1_000, memory_bytes: 1 << 20 };
    Job { execution_id: id.to_owned(), user_id: user.to_owned(), priority, attempt: 1, since: at(since), size }
}

fn normal(id: &str, user: &str, since: u64) -> Job {
    job(id, user, QueuePriority::Normal, since)
}

fn offer(slots: usize) -> Offer {
    Offer { slots, largest: Size { cpu_millis: 4_000, memory_bytes: 1 << 30 }, draining: false }
}

fn queue(slots: usize, policy: Policy) -> Queue {
    let mut queue = Queue::new(policy);
    queue.set_runners([("a".to_owned(), offer(slots))].into());
    queue
}

fn next(queue: &mut Queue, now: u64) -> Option<String> {
    queue.admit_next(at(now)).map(|placed| placed.job.execution_id)
}

/// Gives the only slot to one after the other, each for a second.
fn order(queue: &mut Queue, from: u64) -> Vec<String> {
    let mut order = Vec::new();
    let mut now = from;
    while let Some(id) = next(queue, now) {
        assert_eq!(next(queue, now), None, "there is one slot");
        now += 1;
        assert!(queue.release(&id, at(now)));
        order.push(id);
    }
    assert_eq!((queue.in_use(), queue.depth(), queue.users.len(), queue.turns.len()), (0, 0, 0, 0));
    assert!(queue.promotions.is_empty());
    order
}

#[test]
fn a_user_is_served_by_priority_and_then_by_time() {
    let mut queue = queue(1, Policy::default());
    for claimed in [
        normal("b", "u", 2),
        job("c", "u", QueuePriority::Unspecified, 3),
        job("d", "u", QueuePriority::High, 4),
        job("e", "u", QueuePriority::Background, 0),
        normal("b", "u", 9),
    ] {
        assert_eq!(queue.claim(claimed, at(9)), Admission::Waiting);
    }
    let places: Vec<_> = ["d", "b", "c", "e"].iter().map(|id| queue.place_of(id, at(9), 10)).collect();
    assert_eq!(places, [Some(1), Some(2), Some(3), Some(4)]);
    assert_eq!(queue.place_of("e", at(9), 3), None);
    assert_eq!(order(&mut queue, 9), ["d", "b", "c", "e"]);
}

#[test]
fn nothing_waits_for_ever() {
    let mut queue = queue(1, Policy { ageing: MINUTE, ..Policy::default() });
    queue.claim(job("old", "u", QueuePriority::Background, 0), at(0));
    let mut waited = 0;
    // Another user asks for something urgent again and again.
    for second in 0.. {
        queue.claim(job(&format!("urgent-{second}"), "v", QueuePriority::Critical, second), at(second));
        let id = next(&mut queue, second).unwrap();
        queue.release(&id, at(second + 1));
        if id == "old" {
            break;
        }
        waited = second;
    }
    assert!((200..=260).contains(&waited), "{waited} s, where the priority is worth 240 s");
}

#[test]
fn one_that_is_released_while_it_is_being_granted_is_not_put_back() {
    let mut queue = queue(1, Policy::default());
    queue.claim(normal("a", "u", 1), at(1));
    let granted = queue.admit_next(at(1)).unwrap().job;
    queue.release("a", at(2));
    queue.put_back(&granted, at(2));
    assert_eq!((queue.in_use(), queue.depth()), (0, 0));
    queue.claim(normal("b", "u", 3), at(3));
    let granted = queue.admit_next(at(3)).unwrap().job;
    queue.put_back(&granted, at(3));
    assert_eq!((queue.in_use(), queue.depth()), (0, 1));
    assert_eq!(order(&mut queue, 3), ["b"]);
}

#[test]
fn one_that_gives_up_waiting_leaves_no_trace() {
    let mut queue = queue(1, Policy::default());
    queue.claim(normal("a", "u", 1), at(1));
    queue.claim(normal("b", "v", 1), at(1));
    assert!(queue.release("b", at(2)));
    assert!(!queue.release("b", at(2)));
    assert_eq!(order(&mut queue, 3), ["a"]);
}

#[test]
fn users_share_by_weight_whatever_they_ask_for() {
    let weights = [("heavy".to_owned(), 3.0)].into();
    let mut queue = queue(4, Policy { weights, ..Policy::default() });
    // Runs of one take twice as long, and one asks for ten times as much.
    let users = [("heavy", 1_u64, 4_000), ("long", 2, 4_000), ("many", 1, 20_000)];
    for (user, _, count) in users {
        for number in 0..count {
            queue.claim(normal(&format!("{user}-{number}"), user, 0), at(0));
        }
    }
    let mut had: HashMap<String, u64> = HashMap::new();
    let mut running: Vec<(u64, String)> = Vec::new();
    for now in 0..1_000 {
        running.retain(|(until, id)| {
            let ends = *until <= now;
            if ends {
                queue.release(id, at(now));
            }
            !ends
        });
        while let Some(Placed { job, .. }) = queue.admit_next(at(now)) {
            let (_, takes, _) = users.iter().find(|(user, ..)| *user == job.user_id).unwrap();
            *had.entry(job.user_id).or_default() += takes;
            running.push((now + takes, job.execution_id));
        }
        assert_eq!(queue.in_use(), 4, "nothing waits while a slot is free");
    }
    let all: u64 = had.values().sum();
    for (user, share) in [("heavy", 0.6), ("long", 0.2), ("many", 0.2)] {
        let got = had[user] as f64 / all as f64;
        assert!((got - share).abs() < share * 0.1, "{user}: {got}, not {share}");
    }
}

#[test]
fn who_was_away_has_saved_nothing_up() {
    let mut queue = queue(1, Policy::default());
    for number in 0..100 {
        queue.claim(normal(&format!("busy-{number:03}"), "busy", 0), at(0));
    }
    for now in 0..50 {
        let id = next(&mut queue, now).unwrap();
        queue.release(&id, at(now + 1));
    }
    for number in 0..50 {
        queue.claim(normal(&format!("new-{number:03}"), "new", 50), at(50));
    }
    let order = order(&mut queue, 50);
    let of_new = order[..20].iter().filter(|id| id.starts_with("new")).count();
    assert!((8..=12).contains(&of_new), "{order:?}");
}

#[test]
fn a_user_has_no_more_than_its_limit_and_the_others_have_the_rest() {
    let mut queue = queue(4, Policy { user_limit: 2, global_limit: 3, ..Policy::default() });
    for id in ["u1", "u2", "u3", "v1", "v2"] {
        queue.claim(normal(id, &id[..1], 0), at(0));
    }
    let granted: BTreeSet<String> = std::iter::from_fn(|| next(&mut queue, 1)).collect();
    assert_eq!(granted.len(), 3);
    assert_eq!(granted.iter().filter(|id| id.starts_with('u')).count().min(2), granted.len() - 1);
    let standing = queue.standing("u3", at(1)).unwrap();
    assert_eq!(standing.constraint, Constraint::UserLimit, "{}", standing.words);
    queue.release("u1", at(2));
    queue.release("u2", at(2));
    assert!(next(&mut queue, 2).is_some() && next(&mut queue, 2).is_some());
}

#[test]
fn why_one_waits_is_told() {
    let mut queue = Queue::new(Policy::default());
    queue.claim(normal("a", "u", 0), at(0));
    let told = |queue: &Queue, id: &str| queue.standing(id, at(1)).unwrap().constraint;
    assert_eq!(told(&queue, "a"), Constraint::NoRunner);
    queue.set_runners([("r".to_owned(), Offer { draining: true, ..offer(1) })].into());
    assert_eq!(told(&queue, "a"), Constraint::Draining);
    assert_eq!(next(&mut queue, 1), None);
    queue.set_runners([("r".to_owned(), Offer { largest: Size::default(), ..offer(1) })].into());
    assert_eq!(told(&queue, "a"), Constraint::TooLarge);
    assert_eq!(next(&mut queue, 1), None);
    assert_eq!(queue.claim(normal("large", "u", 0), at(0)), Admission::TooLarge);
    queue.set_runners([("r".to_owned(), offer(1))].into());
    queue.set_paused(true);
    assert_eq!(told(&queue, "a"), Constraint::Paused);
    assert_eq!(next(&mut queue, 1), None);
    queue.set_paused(false);
    assert_eq!(told(&queue, "a"), Constraint::None);
    assert_eq!(next(&mut queue, 1), Some("a".to_owned()));
    assert_eq!(queue.claim(normal("a", "u", 0), at(1)), Admission::Granted);
    assert_eq!(queue.standing("a", at(1)), None);
    queue.claim(normal("b", "u", 1), at(1));
    queue.claim(normal("c", "u", 2), at(2));
    let standing = queue.standing("c", at(2)).unwrap();
    assert_eq!((standing.constraint, standing.place, standing.estimate), (Constraint::Slots, Some(2), None));
    assert_eq!(standing.words, "all 1 slots are in use, and 1 executions come before it");
    queue.release("a", at(11));
    next(&mut queue, 11);
    assert_eq!(queue.standing("c", at(11)).unwrap().estimate, Some(Duration::from_secs(10)));
}

#[test]
fn a_new_priority_is_a_new_place() {
    let mut queue = queue(1, Policy::default());
    queue.claim(normal("a", "u", 0), at(0));
    queue.claim(normal("b", "u", 1), at(1));
    assert!(queue.set_priority("b", QueuePriority::Critical, at(2)));
    assert!(!queue.set_priority("c", QueuePriority::Critical, at(2)));
    assert_eq!(order(&mut queue, 2), ["b", "a"]);
}

#[test]
fn one_that_fits_is_not_held_up_by_one_that_does_not() {
    let mut queue = Queue::new(Policy::default());
    let large = Job { size: Size { cpu_millis: 8_000, memory_bytes: 1 }, ..normal("large", "u", 0) };
    let huge = Offer { slots: 1, largest: Size { cpu_millis: 16_000, memory_bytes: 1 << 30 }, draining: true };
    queue.set_runners([("small".to_owned(), offer(1)), ("huge".to_owned(), huge)].into());
    assert_eq!(queue.claim(large, at(0)), Admission::Waiting);
    queue.claim(normal("small", "u", 1), at(1));
    assert_eq!(next(&mut queue, 1), Some("small".to_owned()));
    assert_eq!(queue.standing("large", at(1)).unwrap().constraint, Constraint::Draining);
}

#[test]
fn users_that_come_once_are_forgotten() {
    let mut queue = queue(1, Policy::default());
    for number in 0..5_000 {
        queue.claim(normal(&format!("x{number}"), &format!("user-{number}"), number), at(number));
        let id = next(&mut queue, number).unwrap();
        queue.release(&id, at(number + 1));
    }
    assert!(queue.users.len() < 2_000, "{}", queue.users.len());
}

fn runners(offers: &[(&str, Offer)]) -> BTreeMap<String, Offer> {
    offers.iter().map(|(name, offer)| ((*name).to_owned(), offer.clone())).collect()
}

fn placed(queue: &mut Queue, now: u64) -> Option<(String, String)> {
    queue.admit_next(at(now)).map(|placed| (placed.job.execution_id, placed.runner))
}

#[test]
fn slots_are_of_the_runner_with_the_fewest_in_use() {
    let mut queue = Queue::new(Policy::default());
    queue.set_runners(runners(&[("a", offer(1)), ("b", offer(3)), ("c", offer(2))]));
    for number in 1..=7 {
        queue.claim(normal(&number.to_string(), "u", number), at(number));
    }
    let chosen: Vec<String> = std::iter::from_fn(|| placed(&mut queue, 9)).map(|(_, runner)| runner).collect();
    assert_eq!(chosen, ["a", "b", "c", "b", "c", "b"]);
    assert_eq!(queue.standing("7", at(9)).unwrap().constraint, Constraint::Slots);
    queue.release("3", at(10));
    assert_eq!(placed(&mut queue, 10), Some(("7".to_owned(), "c".to_owned())));
}

#[test]
fn a_runner_that_drains_or_is_gone_keeps_what_it_has_and_does_not_count_for_the_others() {
    let mut queue = Queue::new(Policy::default());
    queue.set_runners(runners(&[("a", offer(1)), ("b", offer(1))]));
    for id in ["1", "2", "3", "4"] {
        queue.claim(normal(id, "u", 0), at(0));
    }
    assert_eq!(placed(&mut queue, 1), Some(("1".to_owned(), "a".to_owned())));
    queue.set_runners(runners(&[("a", Offer { draining: true, ..offer(1) }), ("b", offer(1))]));
    assert_eq!(placed(&mut queue, 1), Some(("2".to_owned(), "b".to_owned())), "an idle runner beside a full one");
    assert!(queue.stranded().is_empty());
    queue.set_runners(runners(&[("b", offer(2))]));
    let stranded: Vec<String> = queue.stranded().into_iter().map(|job| job.execution_id).collect();
    assert_eq!((stranded, queue.in_use_on("a")), (vec!["1".to_owned()], 1));
    assert_eq!(placed(&mut queue, 1), Some(("3".to_owned(), "b".to_owned())));
    assert_eq!(placed(&mut queue, 1), None);
}

#[test]
fn slots_of_which_the_runner_is_not_known_may_be_on_any() {
    let mut queue = Queue::new(Policy::default());
    queue.restore_granted(normal("old", "u", 0), "", at(0));
    queue.restore_granted(normal("kept", "u", 0), "b", at(0));
    queue.set_runners(runners(&[("a", offer(1)), ("b", offer(1))]));
    queue.claim(normal("new", "u", 1), at(1));
    assert_eq!(placed(&mut queue, 1), None);
    queue.move_to("old", "b");
    assert_eq!(placed(&mut queue, 1), Some(("new".to_owned(), "a".to_owned())));
}

#[test]
fn whatever_happens_no_slot_is_idle_that_one_waits_for_and_no_runner_has_more_than_it_offers() {
    // Small ones fit anywhere, large ones into one of the runners.
    let (small, large) = (Size { cpu_millis: 100, memory_bytes: 1 }, Size { cpu_millis: 3_000, memory_bytes: 1 });
    let of = |slots, largest| Offer { slots, largest, draining: false };
    let mut random = 7_u64;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let mut queue = Queue::new(Policy::default());
    let mut offers = runners(&[("a", of(2, small)), ("b", of(3, large)), ("c", of(1, small))]);
    queue.set_runners(offers.clone());
    let (mut made, mut running) = (0, Vec::<(String, String)>::new());
    for now in 0..20_000 {
        match below(8) {
            // More and more wait, large ones above all.
            0..=3 => {
                made += 1;
                let size = if below(3) == 0 { small } else { large };
                let user = format!("u{}", below(3));
                queue.claim(Job { size, ..normal(&format!("{made:06}"), &user, now) }, at(now));
            }
            4..=6 if !running.is_empty() => {
                let (id, _) = running.swap_remove(usize::try_from(below(running.len() as u64)).unwrap());
                assert!(queue.release(&id, at(now)));
            }
            _ => {
                let name = ["a", "b", "c"][usize::try_from(below(3)).unwrap()];
                let offer = offers.get_mut(name).unwrap();
                offer.draining = !offer.draining;
                queue.set_runners(offers.clone());
            }
        }
        while let Some(Placed { job, runner }) = queue.admit_next(at(now)) {
            let offer = &offers[&runner];
            assert!(!offer.draining && offer.fits(job.size), "{runner} was given {job:?}");
            running.push((job.execution_id, runner));
        }
        for (name, offer) in &offers {
            let in_use = running.iter().filter(|(_, runner)| runner == name).count();
            assert_eq!(queue.in_use_on(name), in_use);
            assert!(in_use <= offer.slots, "{in_use} of {} slots of {name}", offer.slots);
            let waits = queue.waiting().find(|job| offer.fits(job.size));
            let idle = !offer.draining && in_use < offer.slots;
            assert!(!(idle && waits.is_some()), "{name} has a slot free, and {waits:?} waits");
        }
    }
}
