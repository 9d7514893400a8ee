"""A replica in a bucket of a real server, which `LIVE_S3` names: the replica's own tests."""

import pytest

from controlplane.vault.s3 import S3Objects
from tests.live.s3world import bucket, opened, served, server, site, way  # noqa: F401  # fixtures
from tests.unit.vault.conftest import world  # noqa: F401
from tests.unit.vault.test_replica import (  # noqa: F401  # they run here, too
    Counts,
    test_a_bit_that_flips_anywhere_is_mended,
    test_a_copy_holds_everything_and_stands_on_its_own,
    test_a_deletion_that_we_did_not_record_is_not_followed,
    test_a_first_store_that_lost_everything_takes_nothing_from_the_copy,
    test_a_mended_pack_serves_dedup_again,
    test_a_point_whose_pack_is_lost_is_not_shown_by_the_copy,
    test_a_recorded_deletion_of_what_is_needed_again_is_not_followed,
    test_a_restored_database_recalls_past_what_the_first_store_damaged,
    test_a_second_round_writes_nothing_and_a_third_only_what_is_new,
    test_a_spoilt_home_is_mended_when_it_is_read_and_lost_ones_by_the_next_round,
    test_a_spoilt_segment_of_the_index_is_mended_when_it_is_read,
    test_damage_in_the_first_store_does_not_reach_the_copy,
    test_damage_that_a_check_found_is_mended_in_the_next_round,
    test_homes_and_lives_that_only_the_copy_shows_are_put_back,
    test_how_far_behind_it_is_is_told,
    test_what_is_spoilt_is_read_from_the_copy_and_mended,
    test_what_was_collected_goes_at_the_copy_too_and_only_after_the_holding_time,
    test_whenever_it_breaks_off_what_is_there_can_be_read_and_it_goes_on,
    vault,
)

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]


class CountingBucket(Counts, S3Objects):
    pass


@pytest.fixture
def replica(site, bucket):  # noqa: F811
    return CountingBucket(site.place(bucket))
