"""Every fault of the campaign by name."""

from __future__ import annotations

from fault_campaign import camera, command, image, model, people, process, system
from fault_campaign.fault import Fault

FAULTS: dict[str, Fault] = {
    **camera.FAULTS,
    **image.FAULTS,
    **model.FAULTS,
    **command.FAULTS,
    **process.FAULTS,
    **people.FAULTS,
    **system.FAULTS,
}
