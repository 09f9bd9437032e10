//! Which addresses belong to the public Internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address belongs to the public Internet, by the IANA special-purpose registries
/// (RFC 6890 and its updates). Addresses that embed an IPv4 address are judged by that one.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(a == 0
                || v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_documentation()
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 192 && b == 88 && c == 99)
                || (a == 198 && (b == 18 || b == 19))
                || a >= 224)
        }
        IpAddr::V6(v6) => embedded(v6).map_or_else(
            || {
                let s = v6.segments();
                // Only 2000::/3 is global unicast; of it, the protocol assignments (Teredo and
                // ORCHID among them) and the documentation are not.
                (s[0] & 0xe000) == 0x2000
                    && !(s[0] == 0x2001 && s[1] < 0x0200)
                    && !(s[0] == 0x2001 && s[1] == 0x0db8)
                    && !(s[0] == 0x3fff && s[1] < 0x1000)
            },
            |v4| is_public(IpAddr::V4(v4)),
        ),
    }
}

/// The IPv4 address inside a mapped, NAT64 or 6to4 address.
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(v4(high, low))
        }
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::*;

    /// The networks of the registries that are not globally reachable, and multicast.
    const SPECIAL: [&str; 30] = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
        "2002:7f00::/24",
        "2002:a00::/24",
        "64:ff9b::a9fe:0/112",
        "::ffff:192.168.0.0/112",
    ];

    /// The address of a network whose host bits are those of `bits`.
    fn inside(network: IpNet, bits: u128) -> IpAddr {
        match network {
            IpNet::V4(net) => {
                let low = u32::try_from(bits & u128::from(u32::MAX)).unwrap();
                Ipv4Addr::from(u32::from(net.network()) | (low & u32::from(net.hostmask()))).into()
            }
            IpNet::V6(net) => {
                Ipv6Addr::from(u128::from(net.network()) | (bits & u128::from(net.hostmask())))
                    .into()
            }
        }
    }

    proptest! {
        #[test]
        fn no_address_of_a_special_network_is_public(
            network in prop::sample::select(SPECIAL.to_vec()),
            bits: u128,
        ) {
            let address = inside(network.parse().unwrap(), bits);
            prop_assert!(!is_public(address), "{address} of {network}");
        }

        #[test]
        fn an_embedded_address_is_judged_by_itself(v4: u32) {
            let v4 = Ipv4Addr::from(v4);
            let low = u128::from(u32::from(v4));
            let mapped = Ipv6Addr::from(0xffff_u128 << 32 | low);
            let nat64 = Ipv6Addr::from(0x0064_ff9b_u128 << 96 | low);
            let six_to_four = Ipv6Addr::from(0x2002_u128 << 112 | low << 80);
            for v6 in [mapped, nat64, six_to_four] {
                prop_assert_eq!(is_public(v6.into()), is_public(v4.into()), "{}", v6);
            }
        }

        #[test]
        fn outside_the_special_networks_every_ipv4_address_is_public(v4: u32) {
            let address = IpAddr::from(Ipv4Addr::from(v4));
            let nets = SPECIAL.iter().map(|net| net.parse::<IpNet>().unwrap());
            let special = nets.into_iter().any(|net| net.contains(&address));
            prop_assert_eq!(is_public(address), !special);
        }
    }

    #[test]
    fn ordinary_addresses_are_public() {
        for address in ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "64:ff9b::101:101"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn the_metadata_services_of_clouds_are_not_public() {
        for address in ["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254"] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }
}
