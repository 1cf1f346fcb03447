"""What a user sees, through HTTP."""

import pytest

pytest.register_assert_rewrite("tests.acceptance.expecting")
