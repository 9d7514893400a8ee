"""The OpenStack provider: servers, volumes, images and networks of one project."""
