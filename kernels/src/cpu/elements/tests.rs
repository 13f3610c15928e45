//! Functions against f64, over the whole range and relative to each value.

use super::*;
use crate::cpu::simd::dispatch;
use crate::cpu::{Cpu, Isa};

/// The complementary error function to about 1e-13 relative: up to 2 by the series of erf (Abramowitz & Stegun 7.1.6, all
/// terms positive), above by the continued fraction 7.1.14.
fn erfc(x: f64) -> f64 {
    let sqrt_pi = std::f64::consts::PI.sqrt();
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.0 {
        let (mut term, mut sum, mut k) = (x, x, 0.0);
        while term > sum * 1e-17 {
            k += 1.0;
            term *= 2.0 * x * x / (2.0 * k + 1.0);
            sum += term;
        }
        return 1.0 - 2.0 / sqrt_pi * (-x * x).exp() * sum;
    }
    let mut fraction = x;
    for k in (1..=60).rev() {
        fraction = x + f64::from(k) / 2.0 / fraction;
    }
    (-x * x).exp() / (sqrt_pi * fraction)
}

/// The C library's values.
#[test]
fn the_oracle_of_erfc_agrees_with_known_values() {
    for (x, want) in [
        (0.5, 0.4795001221869535),
        (1.9, 0.0072095707647425325),
        (2.0, 0.004677734981047265),
        (6.0, 2.1519736712498916e-17),
        (-1.0, 1.842700792949715),
    ] {
        assert!((erfc(x) - want).abs() <= 1e-11 * f64::abs(want), "erfc({x}) = {}, not {want}", erfc(x));
    }
}

/// `f` on every instruction set, with lengths that leave rests, against `want`: within `relative` of the value or
/// `absolute` where that is small.
fn check(name: &str, f: impl Function, want: impl Fn(f64) -> f64, relative: f64, absolute: f64) {
    let mut numbers: Vec<f32> = (-400_000..=400_000).step_by(7).map(|i| i as f32 * 1e-4).collect();
    numbers.extend((-140..=6).flat_map(|e| [f32::powi(2.0, e), -1.3 * f32::powi(2.0, e)]));
    numbers.push(0.0);
    for isa in Cpu::isa_names() {
        let mut got = numbers.clone();
        // A vector and a rest of each length, then everything.
        let (head, tail) = got.split_at_mut(19);
        dispatch(Isa::by_name(isa).unwrap(), Apply { f, x: head, y: &[] });
        dispatch(Isa::by_name(isa).unwrap(), Apply { f, x: tail, y: &[] });
        for (x, got) in numbers.iter().zip(&got) {
            let want = want(f64::from(*x));
            let off = (f64::from(*got) - want).abs();
            assert!(off <= relative * want.abs() + absolute, "{isa} {name}({x}) = {got}, not {want}");
        }
    }
}

#[derive(Clone, Copy)]
struct Exp;

impl Function for Exp {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::V, _: S::V) -> S::V {
        math::exp(s, x)
    }
}

#[test]
fn functions_are_right_to_a_few_units_in_the_last_place() {
    check("exp", Exp, f64::exp, 2e-7, 0.0);
    check("silu", Silu, |x| x / (1.0 + (-x).exp()), 3e-7, 1e-37);
    check("soft cap", SoftCap(3.0), |x| 3.0 * (x / 3.0).tanh(), 4e-7, 1e-37);
    check("relu", Relu, |x| x.max(0.0), 0.0, 0.0);
    let tanh = |x: f64| {
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
        x / (1.0 + (-2.0 * u).exp())
    };
    // The exponent is rounded to f32, so that far out, where the value is next to nothing, digits are lost.
    check("gelu (tanh)", GeluTanh, tanh, 5e-7, 5e-8);
    check("gelu (erf)", GeluErf, |x| 0.5 * x * erfc(-x / std::f64::consts::SQRT_2), 6e-7, 1e-9);
}

#[test]
fn limits_and_broken_numbers() {
    let of = |f: &dyn Fn(Isa, &mut [f32]), isa: Isa, x: f32| {
        let mut x = [x; 19];
        f(isa, &mut x);
        assert!(x.iter().all(|y| y.to_bits() == x[0].to_bits()), "lanes differ");
        x[0]
    };
    for name in Cpu::isa_names() {
        let isa = Isa::by_name(name).unwrap();
        let exp = |isa, x: &mut [f32]| dispatch(isa, Apply { f: Exp, x, y: &[] });
        for (x, want) in
            [(f32::NEG_INFINITY, 0.0), (-104.5, 0.0), (89.0, f32::INFINITY), (f32::INFINITY, f32::INFINITY)]
        {
            assert_eq!(of(&exp, isa, x), want, "{name}: exp({x})");
        }
        assert!((of(&exp, isa, -100.0) / 3.783e-44 - 1.0).abs() < 0.02, "{name}: small results are denormal numbers");
        type Named<'a> = (&'a str, &'a dyn Fn(Isa, &mut [f32]));
        let all: [Named<'_>; 4] = [
            ("silu", &|isa, x| dispatch(isa, Apply { f: Silu, x, y: &[] })),
            ("gelu tanh", &|isa, x| dispatch(isa, Apply { f: GeluTanh, x, y: &[] })),
            ("gelu erf", &|isa, x| dispatch(isa, Apply { f: GeluErf, x, y: &[] })),
            ("relu", &|isa, x| dispatch(isa, Apply { f: Relu, x, y: &[] })),
        ];
        for (what, f) in all {
            for x in [200.0, 1e20, f32::MAX] {
                assert_eq!(of(f, isa, x), x, "{name}: {what}({x})");
                assert_eq!(of(f, isa, -x), 0.0, "{name}: {what}({})", -x);
            }
            assert!(of(f, isa, f32::NAN).is_nan(), "{name}: {what} hides a NaN");
        }
        assert!(of(&exp, isa, f32::NAN).is_nan(), "{name}: exp hides a NaN");
    }
}
