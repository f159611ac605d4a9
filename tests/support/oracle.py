"""The notebook's loops, written down anew; imports nothing of the package.

Equations of one epoch, for each user and then for each item (N ratings r of rows with factors F and
biases c)::

    b = lambda sum(r - mean - c - F u_old) / (lambda N + gamma)
    u = (lambda FᵀF + tau I)⁻¹ lambda Fᵀ (r - mean - b - c)
"""

import math

import numpy as np


class Oracle:
    """Ratings and state in plain dictionaries keyed by id."""

    def __init__(self, ratings, *, rank, lam, gamma, tau, mean=0.0, by_count=False):
        self.by_user, self.by_item = {}, {}
        for user, item, rating in ratings:
            self.by_user.setdefault(user, []).append((item, rating))
            self.by_item.setdefault(item, []).append((user, rating))
        self.n_ratings = len(ratings)
        self.rank, self.lam, self.gamma, self.tau, self.mean = rank, lam, gamma, tau, mean
        self.by_count = by_count
        self.user_bias = dict.fromkeys(self.by_user, 0.0)
        self.item_bias = dict.fromkeys(self.by_item, 0.0)
        self.user_factors, self.item_factors = {}, {}

    def epoch(self):
        self.half_epoch(
            self.by_user, self.user_bias, self.user_factors, self.item_bias, self.item_factors
        )
        self.half_epoch(
            self.by_item, self.item_bias, self.item_factors, self.user_bias, self.user_factors
        )

    def half_epoch(self, rows, bias, factors, fixed_bias, fixed_factors):
        for row, ratings in rows.items():
            total = 0.0
            for other, rating in ratings:
                product = float(np.dot(fixed_factors[other], factors[row]))
                total += rating - self.mean - fixed_bias[other] - product
            weight = self.weight(ratings)
            bias[row] = self.lam * total / (self.lam * len(ratings) + weight * self.gamma)
            left = weight * self.tau * np.eye(self.rank)
            right = np.zeros(self.rank)
            for other, rating in ratings:
                fixed = fixed_factors[other]
                left += self.lam * np.outer(fixed, fixed)
                right += self.lam * fixed * (rating - self.mean - bias[row] - fixed_bias[other])
            factors[row] = np.linalg.solve(left, right)

    def squared_error(self):
        return math.fsum(
            (
                rating
                - self.mean
                - self.user_bias[user]
                - self.item_bias[item]
                - float(np.dot(self.user_factors[user], self.item_factors[item]))
            )
            ** 2
            for user, ratings in self.by_user.items()
            for item, rating in ratings
        )

    def weight(self, ratings):
        return len(ratings) if self.by_count else 1

    def objective(self):
        sides = (
            (self.by_user, self.user_bias, self.user_factors),
            (self.by_item, self.item_bias, self.item_factors),
        )
        return -0.5 * (
            self.lam * self.squared_error()
            + math.fsum(
                self.weight(ratings)
                * (
                    self.gamma * bias[row] ** 2
                    + self.tau * float(np.dot(factors[row], factors[row]))
                )
                for rows, bias, factors in sides
                for row, ratings in rows.items()
            )
        )

    def rmse(self):
        return math.sqrt(self.squared_error() / self.n_ratings)
