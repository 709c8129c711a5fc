from lmfast.errors import UserError


def test_a_user_error_is_a_value_error():
    """Callers of the library may catch it as one."""
    assert isinstance(UserError("tokens.npy: empty; encode a text first"), ValueError)
