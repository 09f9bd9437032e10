//! `n-body`: the sun and the four Jovian planets, moved step by step.
//!
//! `POST /` with `{"steps": 1000, "dt": 0.01}`, both optional; `dt` is in years, the
//! defaults are the korvoj suite's. The answer is `{"steps", "dt",
//! "energy_before", "energy_after"}`.
//!
//! Sums have a fixed order and the square root is exact, so both builds answer alike.

use std::f64::consts::PI;

use axum::Router;
use axum::routing::post;
use baton_function::{Json, Problem, ServeError};
use baton_papers::within;
use serde::{Deserialize, Serialize};

/// Some seconds of work.
const STEPS_MAX: u32 = 10_000_000;
const SOLAR_MASS: f64 = 4.0 * PI * PI;
const DAYS: f64 = 365.24;

fn main() -> Result<(), ServeError> {
    baton_function::serve(router())
}

fn router() -> Router {
    Router::new().route("/", post(answer))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Input {
    steps: u32,
    dt: f64,
}

impl Default for Input {
    fn default() -> Self {
        Self { steps: 1000, dt: 0.01 }
    }
}

#[derive(Serialize)]
struct Output {
    steps: u32,
    dt: f64,
    energy_before: f64,
    energy_after: f64,
}

async fn answer(Json(input): Json<Input>) -> Result<Json<Output>, Problem> {
    let Input { steps, dt } = input;
    within("steps", steps, 1..=STEPS_MAX)?;
    within("dt", dt, 1e-6..=0.1)?;
    let mut system = System::jovian();
    let energy_before = system.energy();
    for _ in 0..steps {
        system.advance(dt);
    }
    Ok(Json(Output { steps, dt, energy_before, energy_after: system.energy() }))
}

/// Positions in astronomical units, velocities in those a year, masses in suns × 4π².
#[derive(Clone, Copy)]
struct Body {
    position: [f64; 3],
    velocity: [f64; 3],
    mass: f64,
}

impl Body {
    /// `velocity` a day, `mass` in suns.
    fn planet(position: [f64; 3], velocity: [f64; 3], mass: f64) -> Self {
        Self { position, velocity: velocity.map(|part| part * DAYS), mass: mass * SOLAR_MASS }
    }
}

struct System([Body; 5]);

impl System {
    /// The Computer Language Benchmarks Game's initial state, total momentum zero.
    fn jovian() -> Self {
        let mut bodies = [
            Body::planet([0.0; 3], [0.0; 3], 1.0),
            Body::planet(
                [4.841_431_442_464_72, -1.160_320_044_027_428_4, -0.103_622_044_471_123_11],
                [
                    0.001_660_076_642_744_037,
                    0.007_699_011_184_197_404,
                    -0.000_069_046_001_697_206_3,
                ],
                0.000_954_791_938_424_326_6,
            ),
            Body::planet(
                [8.343_366_718_244_58, 4.124_798_564_124_305, -0.403_523_417_114_321],
                [
                    -0.002_767_425_107_268_624,
                    0.004_998_528_012_349_172,
                    0.000_023_041_729_757_376_393,
                ],
                0.000_285_885_980_666_130_8,
            ),
            Body::planet(
                [12.894_369_562_139_131, -15.111_151_401_698_631, -0.223_307_578_892_655_74],
                [
                    0.002_964_601_375_647_616,
                    0.002_378_471_739_594_809_5,
                    -0.000_029_658_956_854_023_756,
                ],
                0.000_043_662_440_433_515_63,
            ),
            Body::planet(
                [15.379_697_114_850_917, -25.919_314_609_987_964, 0.179_258_772_950_371_18],
                [
                    0.002_680_677_724_903_893,
                    0.001_628_241_700_382_423,
                    -0.000_095_159_225_451_971_59,
                ],
                0.000_051_513_890_204_661_145,
            ),
        ];
        for axis in 0..3 {
            let momentum: f64 = bodies.iter().map(|body| body.velocity[axis] * body.mass).sum();
            bodies[0].velocity[axis] = -momentum / SOLAR_MASS;
        }
        Self(bodies)
    }

    fn energy(&self) -> f64 {
        let Self(bodies) = self;
        let mut energy = 0.0;
        for (nth, body) in bodies.iter().enumerate() {
            energy += 0.5 * body.mass * square(body.velocity);
            for other in &bodies[nth + 1..] {
                energy -= body.mass * other.mass / square(difference(body, other)).sqrt();
            }
        }
        energy
    }

    fn advance(&mut self, dt: f64) {
        let Self(bodies) = self;
        for nth in 1..bodies.len() {
            let (before, after) = bodies.split_at_mut(nth);
            let body = &mut before[nth - 1];
            for other in after {
                let apart = difference(body, other);
                let distance = square(apart);
                let magnitude = dt / (distance * distance.sqrt());
                for (axis, apart) in apart.into_iter().enumerate() {
                    body.velocity[axis] -= apart * other.mass * magnitude;
                    other.velocity[axis] += apart * body.mass * magnitude;
                }
            }
        }
        for body in bodies {
            for axis in 0..3 {
                body.position[axis] += dt * body.velocity[axis];
            }
        }
    }
}

fn difference(one: &Body, other: &Body) -> [f64; 3] {
    [0, 1, 2].map(|axis| one.position[axis] - other.position[axis])
}

fn square([x, y, z]: [f64; 3]) -> f64 {
    x * x + y * y + z * z
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energies_are_the_published_ones() {
        let mut system = System::jovian();
        assert_eq!(format!("{:.9}", system.energy()), "-0.169075164");
        for _ in 0..1000 {
            system.advance(0.01);
        }
        assert_eq!(format!("{:.9}", system.energy()), "-0.169087605");
    }
}
