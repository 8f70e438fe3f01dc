"""Programs of `torch.export`, which need neither Keras nor this package."""


def write_program(network, path, contract):
    """Traces a network for images of one size.

    Args:
        network: functional model of images to logits, on torch.
        path: path of the .pt2 file.
        contract: `Contract` with a size.
    """
    import torch

    class Program(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            logits = self.network(images.to(torch.float32)).to(torch.float32)
            if contract.outputs == "logits":
                return logits
            return logits.argmax(-1).to(torch.uint8)

    images = torch.zeros(
        (1, *contract.size, 3), dtype=getattr(torch, contract.input_dtype)
    )
    with torch.no_grad():
        program = torch.export.export(Program().eval(), (images,), strict=False)
    torch.export.save(program, str(path))
