//! The test hosts themselves.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::net::UdpSocket;
use std::time::Duration;

use tests::netns::{Net, unavailable};

/// Whether host `from` can send a datagram to host `to`.
fn reaches(net: &Net, from: usize, to: usize) -> bool {
    let address = (net.host(to).addr(), 4000);
    let (ready, bound) = std::sync::mpsc::channel();
    let receiver = net
        .host(to)
        .enter(move || {
            let socket = UdpSocket::bind(address).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            ready.send(()).unwrap();
            socket.recv(&mut [0; 16]).is_ok()
        })
        .unwrap();
    bound.recv().unwrap();
    let sender = net.host(from).enter(move || {
        UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"hello", address).unwrap();
    });
    sender.unwrap().join().unwrap();
    receiver.join().unwrap()
}

#[test]
fn hosts_reach_each_other_unless_cut() {
    if let Some(reason) = unavailable() {
        assert!(std::env::var_os("CI").is_none(), "CI must be able to make hosts: {reason}");
        return;
    }
    let net = Net::new(3).unwrap();
    assert!(reaches(&net, 0, 2));
    net.partition(&[&[0, 1], &[2]]).unwrap();
    assert!(!reaches(&net, 0, 2));
    assert!(!reaches(&net, 2, 1));
    assert!(reaches(&net, 0, 1));
    net.heal().unwrap();
    assert!(reaches(&net, 0, 2));
}
