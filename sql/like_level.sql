-- From which rating on a user likes an item, where [events] like_quantile says so: one row per user with at least $like_values
-- ratings before $as_of. Others have no row, and for them $like_threshold counts. Never published.
--
-- Of n ratings in ascending order it is the one at place floor($like_quantile * n) + 1: at least the upper share of a user's
-- ratings are likes, and equal ratings mean the same. Every rated event counts, also several of one item. A rating that the user
-- really gave, so no result depends on the order of the work. The product is rounded, as 0.58 * 50 is a little less than 29.
with placed as (
    select
        user_id,
        cast(rating as double) as rating,
        cast(row_number() over (partition by user_id order by rating) as bigint) as place,
        cast(count(*) over (partition by user_id) as bigint) as n
    from interaction
    where event_timestamp < $as_of and rating is not null and cast($like_quantile as double) > 0
)
select cast(user_id as varchar) as user_id, rating as level
from placed
where n >= cast($like_values as bigint)
    and place = least(
        n,
        cast(floor(round(cast($like_quantile as double) * cast(n as double), 6)) as bigint) + 1)
order by user_id
