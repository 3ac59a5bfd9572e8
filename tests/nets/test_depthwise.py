import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.nets.depthwise import DepthwiseConv, shifted_products


def grouped(x, kernel, stride):
    margin = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        ((margin, margin),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@pytest.mark.parametrize("sides", [(13, 10), (8, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_shifted_products_are_the_grouped_convolution_with_its_gradients(size, stride, sides):
    draw = np.random.default_rng(0)
    x, kernel = (jnp.asarray(draw.normal(size=shape).astype(np.float32)) for shape in ((2, *sides, 6), (size, size, 6)))

    def found(function):
        def both(x, kernel):
            out, back = jax.vjp(lambda *given: function(*given, stride), x, kernel)
            return out, back(jnp.cos(out))

        return jax.jit(both)(x, kernel)

    for ours, reference in zip(jax.tree.leaves(found(shifted_products)), jax.tree.leaves(found(grouped)), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_depthwise_convolution_has_one_kernel_a_channel(dtype):
    net = DepthwiseConv(size=5, stride=2, dtype=dtype)
    x = jax.ShapeDtypeStruct((2, 9, 6, 4), jnp.float32)
    out, params = jax.eval_shape(net.init_with_output, jax.random.key(0), x)
    assert {name: leaf.shape for name, leaf in params["params"].items()} == {"kernel": (5, 5, 1, 4)}
    assert (out.shape, str(out.dtype)) == ((2, 5, 3, 4), dtype)
    assert str(params["params"]["kernel"].dtype) == "float32"
