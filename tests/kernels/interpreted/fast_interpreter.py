"""Makes Triton's interpreter two to three times faster; results and checks stay the same.

The interpreter spends nearly all its time on types, not on numbers: it replaces the functions of its language at every
call of a device function, builds a table of dtypes for every conversion, and computes for every sum of integers whether
it overflows, and ignores the answer (`device_assert` does nothing without `debug`). Here these are done once,
cached, or omitted.
"""

import triton.language as tl
import triton.runtime.interpreter as interpreter


def install() -> None:
    """Replaces Triton's functions permanently: an interpreting process does nothing else."""
    interpreter._patch_lang_tensor = _indexable_scalars(interpreter._patch_lang_tensor)
    interpreter._patch_lang = _once_per_module(interpreter._patch_lang)
    interpreter._get_np_dtype = _remembered_by_name(interpreter._get_np_dtype)
    interpreter.InterpreterBuilder.create_splat = _true_booleans(interpreter.InterpreterBuilder.create_splat)
    tl.block_type.__init__ = _remembered_block_type(tl.block_type.__init__)
    tl.tensor.__init__ = _remembered_tensor_fields(tl.tensor.__init__)
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)


def _indexable_scalars(patch):
    """Triton 3.6 keeps scalars as arrays of one element, which NumPy 2.5 does not convert to `int`; 3.7 converts them."""

    def patch_tensor(tensor, scope) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    return patch_tensor


def _true_booleans(splat):
    """A comparison's type is its operands', so a splat makes integers of it, which Triton 3.9 rejects as a mask."""

    def create_splat(self, ret_ty, arg):
        block = splat(self, ret_ty, arg)
        if arg.data.dtype == bool:
            block.data = block.data.astype(bool)
        return block

    return create_splat


def _once_per_module(patch):
    patched = set()

    def patch_once(fn):
        if id(fn.__globals__) not in patched:
            patch(fn)
            patched.add(id(fn.__globals__))
        return interpreter._LangPatchScope()  # nothing to restore

    return patch_once


def _remembered_by_name(np_dtype):
    found = {}

    def np_dtype_of(dtype):
        if dtype.name not in found:
            found[dtype.name] = np_dtype(dtype)
        return found[dtype.name]

    return np_dtype_of


def _remembered_block_type(init):
    found = {}

    def block_type(self, element_ty, shape) -> None:
        sizes = tuple(size.value if isinstance(size, tl.constexpr) else size for size in shape)
        key = element_ty.name, sizes
        if key not in found:
            init(self, element_ty, shape)
            found[key] = vars(self).copy()
        vars(self).update(found[key])

    return block_type


def _remembered_tensor_fields(init):
    """A tensor's fields other than its data depend on its type alone."""
    found = {}

    def tensor(self, handle, type) -> None:
        if type.name not in found:
            init(self, handle, type)
            found[type.name] = vars(self).copy()
        vars(self).update(found[type.name], handle=handle, type=type)

    return tensor
