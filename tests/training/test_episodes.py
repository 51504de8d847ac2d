"""Seeds, logs and evaluation of episodes on the host."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("gymnasium")

from sparserl_jax.training.episodes import BrokenAt, Episodes, play, reset_seed
from tests.reference import host_toys

KEYS = np.array([[1, 2], [3, 4]], np.uint32)
WORD = st.integers(0, 2**32 - 1)


@given(st.tuples(WORD, WORD), st.lists(st.integers(0, 10_000), min_size=1, max_size=3))
def test_seeds_fit_31_bits_and_depend_on_the_key_and_every_number(key, numbers):
    key = np.array(key, np.uint32)
    seed = reset_seed(key, *numbers)
    assert 0 <= seed < 2**31 and seed == reset_seed(key, *numbers)
    words = np.random.SeedSequence([*key.tolist(), *numbers]).generate_state(1)
    assert seed == int(words[0]) // 2


def test_seeds_of_the_first_episodes_of_many_members_are_all_different():
    seeds = {reset_seed(np.array([m, 7], np.uint32), episode) for m in range(50) for episode in range(50)}
    assert len(seeds) > 2495  # 2500 draws of 2^31 meet by chance about once in 700 times


def test_log_holds_the_seed_and_the_actions_since_and_counts_committed_steps_only():
    episodes = Episodes(host_toys.Seeded(), KEYS, 9)
    episodes.start()
    rng = np.random.default_rng(0)
    taken, lengths, numbers = [], np.zeros(2, int), np.zeros(2, int)
    for _ in range(30):
        action = rng.uniform(-1.5, 1.5, (2, 1, 1)).astype(np.float32)
        before = [part.copy() for part in episodes.log]
        step = episodes.step(action)
        for part, kept in zip(episodes.log, before, strict=True):
            np.testing.assert_array_equal(part, kept)
        episodes.commit()
        taken.append(np.clip(action[:, 0], -1, 1))
        done = (step.step.terminated | step.step.truncated)[:, 0]
        lengths, numbers = np.where(done, 0, lengths + 1), numbers + done
        np.testing.assert_array_equal(episodes.log.length, lengths)
        np.testing.assert_array_equal(episodes.log.episode, numbers)
        for m in range(2):
            assert episodes.log.seed[m] == reset_seed(KEYS[m], numbers[m])
            since = [action[m] for action in taken[len(taken) - lengths[m] :]]
            np.testing.assert_array_equal(episodes.log.actions[m, : lengths[m]], np.reshape(since, (-1, 1)))
            # At an end, the final observation and that of the next episode differ.
            assert np.array_equal(step.step.obs[m], step.next_obs[m]) != done[m]
    assert min(numbers) >= 3


def test_an_episode_ends_at_its_time_limit_where_the_environment_forgets_it():
    class Forgetful(host_toys.Seeded):
        def step(self, action):
            obs, reward, _, _ = super().step(action)
            return np.clip(obs, -1, 1), reward, False, False

    limit = host_toys.SPEC.max_episode_steps
    episodes = Episodes(Forgetful(), KEYS, limit)
    episodes.start()
    for number in range(1, 2 * limit + 1):
        taken = episodes.step(np.zeros((2, 1, 1), np.float32)).step
        assert (taken.truncated[:, 0] == (number % limit == 0)).all() and not taken.terminated.any()
        episodes.commit()
    assert episodes.log.episode.tolist() == [2, 2]
    assert play([Forgetful()], lambda obs: np.zeros((1, 1, 1)), [5]).shape == (1, 1)


def test_episodes_come_back_to_the_same_bits_and_go_on_alike():
    ours, theirs = (Episodes(host_toys.Seeded(), KEYS, 9) for _ in range(2))
    ours.start()
    actions = np.random.default_rng(1).uniform(-0.2, 0.2, (12, 2, 1, 1)).astype(np.float32)
    for action in actions[:5]:
        ours.step(action)
        ours.commit()
    assert not theirs.resume(ours.log, ours.obs).any()
    for action in actions[5:]:
        for one, other in zip(ours.step(action).step, theirs.step(action).step, strict=True):
            np.testing.assert_array_equal(one, other)
        ours.commit()
        theirs.commit()
    for one, other in zip(ours.log, theirs.log, strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_wrong_bit_is_noticed_and_only_that_member_begins_anew():
    ours, theirs = (Episodes(host_toys.Seeded(), KEYS, 9) for _ in range(2))
    ours.start()
    ours.step(np.zeros((2, 1, 1), np.float32))
    ours.commit()
    obs = ours.obs.copy()
    obs[1, 0] = np.nextafter(obs[1, 0], np.float32(9))
    assert theirs.resume(ours.log, obs).tolist() == [False, True]
    assert theirs.log.episode.tolist() == [0, 1] and theirs.log.length.tolist() == [1, 0]
    assert theirs.log.seed[1] == reset_seed(KEYS[1], 1)


def test_played_returns_are_those_of_episodes_played_one_by_one():
    """Members whose episodes end at different times do not disturb each other."""

    def act(obs):
        return np.stack([0.9 * obs[0, :, :1], np.sign(obs[1, :, :1])])

    seeds = [5, 6, 7]
    found = play([host_toys.Seeded(), host_toys.Seeded()], act, seeds)
    assert found.shape == (2, 3) and found.dtype == np.float32
    for m in range(2):
        for i, seed in enumerate(seeds):
            env = host_toys.Seeded()
            obs, total, done = env.reset(seed), 0.0, False
            while not done:
                both = np.stack([obs[None], obs[None]])
                obs, reward, terminated, truncated = env.step(act(both)[m, 0])
                total, done = total + float(reward), terminated or truncated
            np.testing.assert_allclose(found[m, i], total, rtol=1e-6)


def test_evaluation_says_whose_environment_broke():
    class Breaking(host_toys.Seeded):
        def step(self, action):
            raise ValueError("no")

    with pytest.raises(BrokenAt, match="step raised ValueError: no") as broken:
        play([host_toys.Seeded(), Breaking()], lambda obs: obs[:, :, :1], [1])
    assert broken.value.member == 1
