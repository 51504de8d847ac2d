"""LunarLanderLite: the task of gymnasium's LunarLander-v3 (discrete actions, no wind) in pure JAX.

Three bodies, hull and two legs, hang on one pin: both legs hinge on the hull's origin. Their unknowns are the pin's
velocity and three angular rates, so hinges are exact and the mass matrix is an arrow that is inverted by hand.
Engines, masses, terrain, observation, reward and the ends of an episode are those of LunarLander-v3; free flight
agrees with it to rounding of the solver. Only contact is simplified: one point of each leg, its deepest corner,
touches the terrain (inelastic, with friction), and the hull is only tested for touching.
Do not compare returns with published LunarLander-v2 scores without saying which task this is.

The state is made for ONE environment: axes B = 3 bodies (hull, right leg, left leg), L = 2 legs, K = 11 chunk corners.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .protocol import EnvSpec, Step

WIDTH, HEIGHT = 20.0, 400 / 30  # of the world in metres: a view of 600 x 400 at 30 pixels a metre
SCALE = 30.0
TIME_STEP = 1 / 50
GRAVITY = np.array([0.0, -10.0], np.float32)
MAIN_ENGINE, SIDE_ENGINE = 13.0, 0.6
INITIAL_FORCE = 1000.0
"""Each component of the force on the hull during the step that `reset` makes is uniform in +- this."""

HULL = np.array([(-14, 17), (-17, 0), (-17, -10), (17, -10), (17, 0), (14, 17)], np.float32) / SCALE
LEG = np.array([(-2, -8), (2, -8), (2, 8), (-2, 8)], np.float32) / SCALE
SIDE = np.array([1.0, -1.0], np.float32)
"""Sign of each leg's side; its hinge angle is SIDE * (leg's angle - hull's angle)."""

MASS = np.array([4.816667, 0.0711111, 0.0711111], np.float32)
INERTIA = np.array([0.783881, 0.001791, 0.001791], np.float32)
"""About each body's own centre."""

ARM = np.array([(0.0, 0.101307), (20 / 30, -18 / 30), (-20 / 30, -18 / 30)], np.float32)
"""From the pin to each body's centre, in the body's own frame."""

PIN_INERTIA = INERTIA + MASS * (ARM**2).sum(1)
HINGE_RANGE = (0.4 - 0.05, 0.9 - 0.05)
"""Hinge angles a leg rests at and stops at: LunarLander-v3 counts its 0.4 to 0.9 from the -0.05 legs are made at."""

HINGE_SLACK = np.deg2rad(2.0)  # how far past its range a hinge may get
HINGE_START, HINGE_SKEW = 0.492, 2.75e-6
"""What LunarLander-v3's solver makes of hinges at -0.05 in the step of `reset`, and per newton of sideways force
(measured over 300 resets, to 1e-4)."""

HINGE_SPEED, HINGE_IMPULSE = -0.3, 40.0 * TIME_STEP  # the motor closes the hinge, with a torque of at most 40
FRICTION = float(np.sqrt(0.2 * 0.1))
SKIN = 0.015  # legs rest this far above the terrain
TOUCH = 0.005  # and count as touching within this of where they rest
FREE = 1e3  # a speed that no leg reaches: towards the ground it is as good as unbounded
SWEEPS = 12
CHUNK = WIDTH / 10
CORNERS = np.arange(11, dtype=np.float32) * CHUNK
PAD = HEIGHT / 4
STILL_STEPS = 25
STILL_WAY, STILL_TURN = 0.01 * STILL_STEPS * TIME_STEP, np.deg2rad(2.0) * STILL_STEPS * TIME_STEP
"""A lander has landed that gets no further than this in half a second, which is 0.01 m/s and 2 degrees/s in the mean.

LunarLander-v3's engine asks that of every body in every step; in a corner of the terrain legs tremble here."""


class LanderState(NamedTuple):
    """position f32[2]: of the pin; angles f32[B]; velocity f32[B,2]: of the bodies' centres; rates f32[B];
    impulses f32[6]: of the last step's contact, where the next solution starts; legs f32[L]: 1 where a leg touches;
    terrain f32[K]: height of the chunk corners; shaping f32[]: of the last observation;
    rest f32[3], still i32[]: x, y and angle that the lander has not moved away from, and for how many steps."""

    position: jax.Array
    angles: jax.Array
    velocity: jax.Array
    rates: jax.Array
    impulses: jax.Array
    legs: jax.Array
    terrain: jax.Array
    shaping: jax.Array
    rest: jax.Array
    still: jax.Array


class LunarLanderLite:
    """Land between the flags: 4 actions (nothing, left engine, main engine, right engine), 8 observations.

    Observations: position and velocity relative to the pad, angle, angular rate, contact of each leg.
    Reward: what the step gained in closeness, slowness and uprightness, less fuel; -100 for a crash or for leaving
    the view and +100 for coming to rest, in place of it.
    """

    def __init__(self, name: str = "own:LunarLanderLite", max_episode_steps: int = 1000) -> None:
        self.spec = EnvSpec(name, 8, max_episode_steps=max_episode_steps, num_actions=4)

    def reset(self, key: jax.Array) -> tuple[LanderState, jax.Array]:
        """See Environment.reset."""
        terrain_key, force_key = jax.random.split(key)
        heights = jax.random.uniform(terrain_key, (12,), maxval=HEIGHT / 2)
        force = jax.random.uniform(force_key, (2,), minval=-INITIAL_FORCE, maxval=INITIAL_FORCE)
        return start(heights, force)

    def step(self, key: jax.Array, state: LanderState, action: jax.Array) -> tuple[LanderState, Step]:
        """See Environment.step; action i32[] in 0..3."""
        return advance(state, action, jax.random.uniform(key, (2,), minval=-1.0) / SCALE)


def start(heights: jax.Array, force: jax.Array) -> tuple[LanderState, jax.Array]:
    """The episode with these raw terrain heights f32[12] and this first force f32[2] on the hull, and its observation.

    The hull starts in the middle of the upper edge and its legs beside it, away from their hinges; the first step,
    which belongs to the reset, brings them together.
    """
    heights = heights.at[3:8].set(PAD)
    terrain = 0.33 * (jnp.roll(heights, 1) + heights + jnp.roll(heights, -1))[:11]
    position = jnp.array([WIDTH / 2, HEIGHT], jnp.float32)
    centres = position + jnp.array([ARM[0], [ARM[1, 0], 0.0], [ARM[2, 0], 0.0]])
    state = LanderState(
        position,
        angles=jnp.array([0.0, -0.05, 0.05]),
        velocity=jnp.zeros((3, 2)).at[0].set(force * TIME_STEP / MASS[0]),
        rates=jnp.zeros(3),
        impulses=jnp.zeros(6),
        legs=jnp.zeros(2),
        terrain=terrain,
        shaping=jnp.float32(0.0),
        rest=jnp.zeros(3),
        still=jnp.int32(0),
    )
    state = _move(state, centres, HINGE_START - SIDE * HINGE_SKEW * force[0])
    obs = observe(state)
    return state._replace(shaping=_shaping(obs)), obs


def advance(state: LanderState, action: jax.Array, dispersion: jax.Array) -> tuple[LanderState, Step]:
    """One step with given engine noise f32[2], each entry in +- 1/30."""
    state = _fire(state, action, dispersion)
    state = _move(state, state.position + _turn(state.angles, ARM), HINGE_RANGE[0] - HINGE_SLACK)
    obs = observe(state)
    shaping = _shaping(obs)
    fuel = 0.30 * (action == 2) + 0.03 * ((action == 1) | (action == 3))
    lost = _hull_touches(state) | (jnp.abs(obs[0]) >= 1.0)
    landed = (state.still >= STILL_STEPS) & jnp.any(state.legs > 0)  # in the air, too, a craft can hang still
    reward = jnp.where(lost, -100.0, shaping - state.shaping - fuel)
    reward = jnp.where(landed, 100.0, reward).astype(jnp.float32)
    return state._replace(shaping=shaping), Step(obs, reward, lost | landed, jnp.bool_(False))


def observe(state: LanderState) -> jax.Array:
    """f32[8]: x, y above the pad, their velocities, angle, angular rate, contact of the right and of the left leg."""
    x, y = state.position
    speed = state.velocity[0] * jnp.array([WIDTH / 2, HEIGHT / 2]) * TIME_STEP
    place = jnp.stack([(x - WIDTH / 2) / (WIDTH / 2), (y - (PAD + 18 / SCALE)) / (HEIGHT / 2)])
    turn = jnp.stack([state.angles[0], 20.0 * TIME_STEP * state.rates[0]])
    return jnp.concatenate([place, speed, turn, state.legs])


def _shaping(obs: jax.Array) -> jax.Array:
    far, fast = jnp.hypot(obs[0], obs[1]), jnp.hypot(obs[2], obs[3])
    return -100.0 * (far + fast + jnp.abs(obs[4])) + 10.0 * (obs[6] + obs[7])


def _fire(state: LanderState, action: jax.Array, dispersion: jax.Array) -> LanderState:
    """The impulse of the chosen engine on the hull."""
    tip = jnp.stack([jnp.sin(state.angles[0]), jnp.cos(state.angles[0])])
    side = jnp.stack([-tip[1], tip[0]])
    down = jnp.array([1.0, -1.0])  # engines' offsets are mirrored in y; both are written so in LunarLander-v3
    main = down * (tip * (4 / SCALE + 2 * dispersion[0]) + side * dispersion[1])
    direction = action - 2
    aside = down * (tip * dispersion[0] + side * (3 * dispersion[1] + direction * 12 / SCALE))
    # 17 in x and 14 in y: an inconsistency of LunarLander-v3, kept because it is part of the task.
    at_side = aside + tip * jnp.array([-17.0, 14.0]) / SCALE
    is_main, is_side = action == 2, (action == 1) | (action == 3)
    impulse = -main * MAIN_ENGINE * is_main - aside * SIDE_ENGINE * is_side
    lever = jnp.where(is_main, main, at_side) - _turn(state.angles[0], ARM[0])
    return state._replace(
        velocity=state.velocity.at[0].add(impulse / MASS[0]),
        rates=state.rates.at[0].add(_cross(lever, impulse) / INERTIA[0]),
    )


def _move(state: LanderState, centres: jax.Array, hinge_low: ArrayLike) -> LanderState:
    """Gravity, hinges and contact for one time step; centres f32[B,2] of the bodies before it.

    As in LunarLander-v3's engine velocities are solved first, where the bodies are; then the bodies move.
    """
    arms = _turn(state.angles, ARM)
    momentum = jnp.asarray(MASS)[:, None] * (state.velocity + TIME_STEP * GRAVITY)
    spin = jnp.asarray(INERTIA) * state.rates + _cross(arms, momentum)
    pin, rates, impulses = _solve_contact(state, arms, *_free(arms, momentum.sum(0), spin))
    velocity = pin + rates[:, None] * _normal(arms)

    angles = state.angles + TIME_STEP * rates
    hinges = jnp.clip(SIDE * (angles[1:] - angles[0]), hinge_low, HINGE_RANGE[1] + HINGE_SLACK)
    angles = angles.at[1:].set(angles[0] + SIDE * hinges)
    # The common centre moves freely; the pin is where the turned bodies then have it.
    centre = MASS @ (centres + TIME_STEP * velocity) / MASS.sum()
    position = centre - MASS @ _turn(angles, ARM) / MASS.sum()

    lever, gap, normal = _deepest(position, angles, state.terrain)
    # A leg that got into the ground gives way as far as its hinge lets it; the rest lifts the lander.
    depth, gain = jnp.maximum(-gap, 0.0), SIDE * _cross(lever, normal)
    opened = jnp.where(gain > 0.1, jnp.clip(depth / gain, 0.0, HINGE_RANGE[1] - hinges), 0.0)
    angles = angles.at[1:].add(SIDE * opened)
    position = position + (0.5 * (depth - opened * gain)[:, None] * normal).sum(0)
    place = jnp.append(position, angles[0])
    limits = jnp.array([STILL_WAY, STILL_WAY, STILL_TURN])
    moved = jnp.any(jnp.abs(place - state.rest) > limits)
    return state._replace(
        position=position,
        angles=angles,
        velocity=velocity,
        rates=rates,
        impulses=impulses,
        legs=((gap < TOUCH) | (impulses[:2] > 0)).astype(jnp.float32),
        rest=jnp.where(moved, place, state.rest),
        still=jnp.where(moved, 0, state.still + 1),
    )


def _free(arms: jax.Array, force: jax.Array, torque: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pin velocity [2] and rates [B] that impulses give: force [2] at the pin, torque [B] about it on each body.

    The mass matrix is [[sum m, b], [b^T, diag(J)]] with b = m * arm turned by 90 degrees; eliminating the rates
    leaves two equations.
    """
    b = MASS[:, None] * _normal(arms)
    schur = MASS.sum() * jnp.eye(2) - (b / PIN_INERTIA[:, None]).T @ b
    right = force - (torque / PIN_INERTIA) @ b
    determinant = schur[0, 0] * schur[1, 1] - schur[0, 1] ** 2
    pin = jnp.stack([_cross(right, schur[:, 1]), _cross(schur[:, 0], right)]) / determinant
    return pin, (torque - b @ pin) / PIN_INERTIA


def _solve_contact(
    state: LanderState, arms: jax.Array, pin: jax.Array, rates: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pin velocity and rates after the impulses of hinge motors, hinge stops, ground and friction; and those.

    Six impulses, [normal, tangent, hinge] x L. Gauss-Seidel over the legs; within a leg normal and hinge, which
    hang together stiffly because legs are light, are solved exactly.
    """
    lever, gap, normal = _deepest(state.position, state.angles, state.terrain)
    tangent = -_normal(normal)
    directions = jnp.concatenate([normal, tangent, jnp.zeros((2, 2))])
    leg = jnp.eye(2)
    own = jnp.concatenate(
        [leg * _cross(lever, normal)[:, None], leg * _cross(lever, tangent)[:, None], leg * SIDE[:, None]]
    )
    hull = jnp.concatenate([jnp.zeros(4), -SIDE])
    torques = jnp.concatenate([hull[:, None], own], axis=1)
    pins, turns = jax.vmap(lambda force, torque: _free(arms, force, torque))(directions, torques)
    response = (
        directions @ pins.T + torques @ turns.T
    )  # [6,6]: velocity along row i by an impulse along row j

    hinge = SIDE * (state.angles[1:] - state.angles[0])
    # The motor closes the hinge until it rests; where it rests and where it stops the impulse has no bound.
    resting = hinge <= HINGE_RANGE[0]
    most = jnp.where(resting, jnp.inf, HINGE_IMPULSE)
    least = jnp.where(hinge >= HINGE_RANGE[1], -jnp.inf, -HINGE_IMPULSE)
    wanted = jnp.concatenate(
        [jnp.where(gap < TOUCH, 0.0, -FREE), jnp.zeros(2), jnp.where(resting, 0.0, HINGE_SPEED)]
    )
    offset = directions @ pin + torques @ rates - wanted

    def sweep(_: int, impulses: jax.Array) -> jax.Array:
        for n, t, h in ((0, 2, 4), (1, 3, 5)):
            a, b, d = response[n, n], response[n, h], response[h, h]
            rest = impulses.at[jnp.array([n, h])].set(0.0)
            on_n, on_h = response[n] @ rest + offset[n], response[h] @ rest + offset[h]
            alone = -on_h / d  # the hinge's impulse if the ground gives none
            both = -(on_h - b / a * on_n) / (d - b * b / a)
            turn = jnp.clip(jnp.where(on_n + b * alone >= 0, alone, both), least[n], most[n])
            push = jnp.maximum(-(on_n + b * turn) / a, 0.0)
            impulses = impulses.at[n].set(push).at[h].set(turn)
            slide = impulses[t] - (response[t] @ impulses + offset[t]) / response[t, t]
            impulses = impulses.at[t].set(jnp.clip(slide, -FRICTION * push, FRICTION * push))
        return impulses

    impulses = jax.lax.fori_loop(0, SWEEPS, sweep, state.impulses)
    return pin + impulses @ pins, rates + impulses @ turns, impulses


def _deepest(
    position: jax.Array, angles: jax.Array, terrain: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of each leg's corner nearest the ground: offset from the pin [L,2], gap to where it rests [L], normal [L,2]."""
    corners = _turn(angles[1:, None], ARM[1:, None] + LEG)
    gap, normal = _above(position + corners, terrain)
    nearest = jax.nn.one_hot(jnp.argmin(gap, axis=1), 4)
    lever, normal = (jnp.einsum("lc,lcx->lx", nearest, each) for each in (corners, normal))
    return lever, gap.min(1) - SKIN, normal


def _above(points: jax.Array, terrain: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Distance of points [...,2] from the line of the chunk below them [...], and its normal [...,2].

    There is no ground outside the view.
    """
    x, y = points[..., 0], points[..., 1]
    chunk = jnp.clip(x // CHUNK, 0, 9).astype(jnp.int32)
    left, right = terrain[chunk], terrain[chunk + 1]
    slope = (right - left) / CHUNK
    up = 1 / jnp.sqrt(1 + slope**2)
    distance = (y - left - slope * (x - chunk * CHUNK)) * up
    return jnp.where((x >= 0) & (x <= WIDTH), distance, HEIGHT), jnp.stack([-slope * up, up], axis=-1)


def _hull_touches(state: LanderState) -> jax.Array:
    """A corner of the hull in the ground, or a corner of the ground in the hull."""
    reach = SKIN + TOUCH
    below = _above(state.position + _turn(state.angles[0], HULL), state.terrain)[0] < reach
    peaks = _turn(-state.angles[0], jnp.stack([CORNERS, state.terrain], axis=1) - state.position)
    edges = np.roll(HULL, -1, axis=0) - HULL
    outward = edges @ np.array([[0, -1], [1, 0]]) / np.linalg.norm(edges, axis=1, keepdims=True)
    outside = ((peaks[:, None] - HULL) * outward).sum(2).max(1)
    return jnp.any(below) | jnp.any(outside < reach)


def _turn(angle: ArrayLike, vectors: ArrayLike) -> jax.Array:
    """Vectors [...,2] turned by angle [...]."""
    sin, cos, vectors = jnp.sin(angle), jnp.cos(angle), jnp.asarray(vectors)
    x, y = vectors[..., 0], vectors[..., 1]
    return jnp.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


def _normal(vectors: jax.Array) -> jax.Array:
    """Vectors [...,2] turned by 90 degrees."""
    return jnp.stack([-vectors[..., 1], vectors[..., 0]], axis=-1)


def _cross(a: jax.Array, b: jax.Array) -> jax.Array:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
